"""Out of memory: passes become smaller until they fit, batches and results stay what they are, and it is recorded."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from remora.engine.driver import Driver
from remora.engine.layout import Layout
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(12)
DATA = toy_data(EXAMPLES)
SPECS = [
    spec("lora", {"rank": rank, "dropout": 0.1}, id=f"lora {rank}", epochs=2, batch_size=6, splits=())
    for rank in (2, 4, 8)
]


def allow(monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> list[int]:
    """Let passes of more tokens run out of memory after their forward part; returns the sizes that were tried."""
    tried: list[int] = []
    read = Driver.read

    def limited(self: Driver, layout: Layout, adapters: Sequence[Any], *others: Any) -> Any:
        tried.append(layout.num_tokens)
        result = read(self, layout, adapters, *others)
        if layout.num_tokens > tokens:
            raise error
        return result

    monkeypatch.setattr(Driver, "read", limited)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_passes_shrink_until_they_fit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert", torch.float64)
    whole = run(base, DATA, SPECS)
    assert {outcome.tokens_per_pass for outcome in whole.values()} == {2400}
    tried = allow(monkeypatch, 20, error)
    cut = run(base, DATA, SPECS)
    assert max(tried) > 100
    for key, outcome in cut.items():
        assert outcome.status == "done"
        assert outcome.tokens_per_pass is not None
        assert outcome.tokens_per_pass <= 20
        assert largest_difference(outcome, whole[key]) < 1e-9


def test_when_one_sequence_does_not_fit_the_error_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = allow(monkeypatch, 2, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        run(tiny_base("bert"), DATA, SPECS)
    assert min(tried) <= max(map(len, EXAMPLES.ids))


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = allow(monkeypatch, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(tiny_base("bert"), DATA, SPECS)
    assert len(tried) == 1
