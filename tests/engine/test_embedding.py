"""Full fine-tuning reads rows from its table of embeddings: the same numbers as with the whole table cast."""

from typing import Any

import pytest
import torch
from torch import Tensor

from remora.engine import driver
from tests.contract.checks import largest_difference
from tests.tiny import ALL, VOCAB, tiny_base
from tests.trials import run, spec, toy_data, toy_examples

DATA = toy_data(toy_examples(10), validation=toy_examples(7, seed=1))
OTHERWISE = frozenset({"gemma2", "gemma3"})
"""Architectures with tables that are scaled, or that something else reads."""


@pytest.mark.parametrize("arch", ALL)
def test_rows_of_the_table_alone_change_no_number(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [spec("full", {}, batch_size=4, epochs=2, lr=1e-3, weight_decay=0.01)]
    base = tiny_base(arch, torch.float64)
    with driver.Driver(base) as opened:
        assert (opened.embedding is None) == (arch in OTHERWISE)
    rows = run(base, DATA, trials)
    monkeypatch.setattr(driver, "_plain_embedding", lambda model: None)
    whole = run(base, DATA, trials)
    assert largest_difference(rows["full {}"], whole["full {}"]) < 1e-12


def test_the_table_is_not_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a base in bfloat16 tokens are looked up in the float32 values that are trained, in training and after it."""
    looked_up: list[tuple[int, torch.dtype]] = []
    original = torch.nn.functional.embedding

    def embedding(ids: Tensor, weight: Tensor, *args: Any, **keywords: Any) -> Tensor:
        looked_up.append((weight.shape[0], weight.dtype))
        return original(ids, weight, *args, **keywords)

    monkeypatch.setattr(torch.nn.functional, "embedding", embedding)
    run(tiny_base("bert", torch.bfloat16), DATA, [spec("full", {}, batch_size=4, epochs=1)])
    assert {dtype for rows, dtype in looked_up if rows == VOCAB} == {torch.float32}
    assert sum(rows == VOCAB for rows, _ in looked_up) == 3 + 1
