"""The history of a trial survives its process, and is told once however often a pack is taken up."""

from pathlib import Path

from remora.study.history import History


def events(history: History, trial: str) -> list[tuple[str, object]]:
    return [(entry["event"], entry.get("step", entry.get("steps"))) for entry in history.take(trial)]


def test_a_trial_taken_up_again_has_all_of_its_history(tmp_path: Path) -> None:
    path = tmp_path / "pack" / "history.jsonl"
    first = History(path)
    first.add("a", "started", steps=30)
    first.add("b", "started", steps=20)
    first.add("a", "epoch", step=10, train_loss=0.5)
    first.add("a", "epoch", step=20, train_loss=0.4)
    with path.open("a") as file:
        file.write('\n{"trial": "a", "event": "epo')  # the process was killed here
    times = [entry["time"] for entry in History(path).take("a")]
    again = History(path)
    again.add("a", "started", steps=30)
    again.add("a", "epoch", step=20, train_loss=0.4)  # trained again after the checkpoint
    again.add("a", "epoch", step=30, train_loss=0.3)
    kept = History(path).take("a")
    assert [entry["time"] for entry in kept][: len(times)] == times
    expected = [("started", 30), ("epoch", 10), ("epoch", 20), ("resumed", 30), ("epoch", 30)]
    assert events(again, "a") == expected
    assert events(again, "a") == []
    assert events(again, "b") == [("started", 20)]


def test_without_a_file_nothing_is_kept_and_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    nowhere = History(None)
    nowhere.add("a", "started", steps=3)
    assert events(nowhere, "a") == [("started", 3)]
    (tmp_path / "file").write_text("no folder")
    broken = History(tmp_path / "file" / "history.jsonl")
    broken.add("a", "started", steps=3)
    assert events(broken, "a") == [("started", 3)]
