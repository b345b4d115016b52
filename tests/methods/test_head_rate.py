"""The head's own learning rate, where a method asks for one."""

import numpy as np
import pytest

from remora.methods.registry import get_method
from tests.contract.test_storage import EXAMPLES
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data


@pytest.mark.parametrize("name", ["prompt-tuning", "p-tuning", "prefix-tuning"])
def test_the_head_learns_so_many_times_as_fast(name: str) -> None:
    """AdamW's first step is the rate times the sign, so that of the head shows which rate it had."""

    def moved(ratio: float) -> np.ndarray:
        trial = spec(name, {"head_ratio": ratio}, lr=1e-3, epochs=1, max_steps=1, warmup=0.0, weight_decay=0.0)
        still = spec(
            name, {"head_ratio": ratio}, id="still", lr=0.0, epochs=1, max_steps=1, warmup=0.0, weight_decay=0.0
        )
        outcomes = run(tiny_base("bert"), toy_data(EXAMPLES), [trial, still])
        after, before = (outcomes[each].head["classifier.bias"] for each in (trial.id, "still"))
        return (after - before).abs().numpy()

    np.testing.assert_allclose(moved(1.0), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(moved(5.0), 5e-3, rtol=1e-3)


def test_a_combination_takes_the_largest() -> None:
    method = get_method("combine", {"of": ["lora", {"prompt-tuning": {"head_ratio": 4.0}}]})
    assert method.head_lr_multiplier == 4.0
    assert get_method("combine", {"of": "lora+bitfit"}).head_lr_multiplier == 1.0
