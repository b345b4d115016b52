"""The parity check: balanced cells, resumed from files, a table only of what was measured."""

import dataclasses
import json
from pathlib import Path

import pytest

from bench import parity
from bench.data import prepare, read_rows
from bench.job import Answer, Job, TrialAnswer
from bench.parity import Cell, cells, compare, train, write


@pytest.fixture
def place(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real rows, few of them; cells and prepared rows in a folder of the test."""
    monkeypatch.setattr(parity, "CELLS", tmp_path / "bench" / "results" / "parity")
    monkeypatch.setattr(parity, "PREPARED", tmp_path / "prepared")
    monkeypatch.setattr(parity, "ROOT", tmp_path)
    monkeypatch.setattr(parity, "NUM_TRAIN", 40)
    return shared_data


def answer(predictions: tuple[int, ...], loss: float = 0.5) -> Answer:
    trial = TrialAnswer(
        seed=0, steps=1, train_loss=loss, curve=(), grad_norm_min=0.1, grad_norm_max=0.2, predictions=predictions
    )
    return Answer(
        trials=(trial,),
        timed_examples=1,
        timed_seconds=1.0,
        timed_tokens_real=1,
        timed_tokens_computed=1,
        peak_rss_bytes=1,
        wall_seconds=1.0,
    )


def test_prepared_rows_are_the_same_every_time_and_disjoint(tmp_path: Path, shared_data: Path) -> None:
    folders = [prepare(shared_data, "mrpc", 50, tmp_path / name, num_validation=20) for name in ("a", "b")]
    texts = [(folder / "train.jsonl").read_text() for folder in folders]
    assert texts[0] == texts[1]
    rows = {name: read_rows(folders[0] / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(found) for name, found in rows.items()} == {"train": 50, "validation": 20, "test": 408}
    assert list(rows["train"][0]) == ["sentence1", "sentence2", "label"]
    assert not {json.dumps(row) for row in rows["train"]} & {json.dumps(row) for row in rows["validation"]}


def test_seeds_are_outermost() -> None:
    order = list(cells(("peer", "remora"), 2))
    assert len(order) == 16
    assert [cell.seed for cell in order] == [0] * 8 + [1] * 8
    some = list(cells(("peer", "remora"), 2, "mrpc-lora"))
    assert {(cell.data, cell.method) for cell in some} == {("mrpc", "lora")}
    assert len(some) == 4


def test_a_finished_cell_is_not_trained_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []

    def run(jobs: list[Job], nice: int = 0) -> list[Answer]:
        asked.extend(jobs)
        return [answer((0, 1))]

    monkeypatch.setattr(parity, "run_together", run)
    cell = Cell(side="peer", data="sst2", method="full", seed=3)
    for threads in (1, 2):
        train(cell, place, threads=threads, nice=0)
    assert [(job.side, job.trials[0].seed, job.evaluate) for job in asked] == [("peer", 3, True)]
    monkeypatch.setattr(parity, "EPOCHS", 9)
    with pytest.raises(ValueError, match="other settings"):
        train(cell, place, threads=1, nice=0)


def test_the_table_says_what_passes(place: Path, tmp_path: Path) -> None:
    for cell in cells(("peer", "remora"), 2):
        folder = prepare(place, cell.data, 40, tmp_path / "prepared")
        num_test = len(read_rows(folder / "test.jsonl"))
        ones = num_test - cell.seed - (200 if cell.side == "remora" and cell.method == "full" else 0)
        predictions = (1,) * ones + (0,) * (num_test - ones)
        cell.file.parent.mkdir(parents=True, exist_ok=True)
        cell.file.write_text(
            json.dumps({"job": {}, "answer": dataclasses.asdict(answer(predictions, 0.5 + cell.seed / 10))})
        )
    rows = compare(place, 2)
    assert [(row.data, row.method, row.metric) for row in rows] == [
        ("sst2", "lora", "accuracy"),
        ("sst2", "full", "accuracy"),
        ("mrpc", "lora", "f1"),
        ("mrpc", "lora", "accuracy"),
        ("mrpc", "full", "f1"),
        ("mrpc", "full", "accuracy"),
    ]
    assert all(row.passed == (row.method == "lora") for row in rows if row.metric == "f1")
    assert len(rows) == parity.FAMILY
    assert {len(row.remora) for row in rows} == {2}
    more = {side: Cell(side=side, data="mrpc", method="lora", seed=2).file for side in ("peer", "remora")}
    more["peer"].write_text(Cell(side="peer", data="mrpc", method="lora", seed=1).file.read_text())
    assert parity.seeds_of("mrpc", "lora", 2) == 2, "a seed that one side has not trained does not count"
    more["remora"].write_text(more["peer"].read_text())
    assert parity.seeds_of("mrpc", "lora", 2) == 3
    for path in more.values():
        path.unlink()
    text = write(rows, 2, "a remark\n")
    assert "a remark" in text
    assert text.count("| 0.5500 | 0.5500 | +0.0000 |") == 4
    assert (tmp_path / "docs" / "parity.md").read_text() == text
    assert (text.count("yes |\n"), text.count("no |\n")) == (3, 3)
