"""A benchmark that is stopped goes on where it was, and one that is not asked to go on measures anew."""

from pathlib import Path
from typing import Any

import pytest

from bench.compare_peers import Progress


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    taken: list[str] = []

    def measure(name: str) -> dict[str, Any]:
        taken.append(name)
        return {"rate": len(taken)}

    first = Progress(path, go_on=False)
    assert first.of("turn 1", lambda: measure("1")) == {"rate": 1}
    with pytest.raises(RuntimeError):
        first.of("turn 2", lambda: (_ for _ in ()).throw(RuntimeError()))
    again = Progress(path, go_on=True)
    assert again.of("turn 1", lambda: measure("1")) == {"rate": 1}
    assert again.of("turn 2", lambda: measure("2")) == {"rate": 2}
    assert Progress(path, go_on=False).of("turn 1", lambda: measure("anew")) == {"rate": 3}
    assert taken == ["1", "2", "anew"]
    again.finish()
    assert not path.exists()
