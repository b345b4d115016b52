"""What happened to the trials of a pack, for their ``events.jsonl``.

It is kept beside the pack's checkpoints as it grows, so that a trial that was taken up again has all of its history.
What is trained again after a checkpoint happens with the same bits, and is told once.
"""

import datetime
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def now() -> str:
    """The time of an event."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class History:
    """Events by trial.

    Args:
        path: the file that keeps them, one per line; None for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, list[Entry]] = {}
        for line in self._lines():
            with suppress(ValueError, KeyError, TypeError):  # a line is cut where the process was killed
                entry = json.loads(line)
                self._entries.setdefault(entry.pop("trial"), []).append(entry)

    def add(self, trial: str, event: str, **values: Any) -> None:
        """Note an event of a trial; ``started`` of one that is known is ``resumed``.

        Args:
            trial: its id.
            event: its name.
            values: what else is to be told, as plain JSON values.
        """
        known = self._entries.setdefault(trial, [])
        if event == "started" and known:
            event = "resumed"
        elif any((old["event"], old.get("step")) == (event, values.get("step")) for old in known):
            return
        entry = {"time": now(), "event": event, **values}
        known.append(entry)
        if self._path is not None:
            with suppress(OSError):  # a full disk is told of by what matters more
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    # The line break comes first: a line cut by a kill must not swallow the next.
                    file.write("\n" + json.dumps({"trial": trial, **entry}))

    def take(self, trial: str) -> list[Entry]:
        """The events of a trial that has ended, in order."""
        return self._entries.pop(trial, [])

    def _lines(self) -> list[str]:
        if self._path is None or not self._path.is_file():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").splitlines()
