"""What training left in a run directory, as bytes to compare."""

import json
from pathlib import Path

_TIMES = frozenset({"wall_seconds"})


def outcome(run_dir: Path) -> dict[str, object]:
    """All that training gave: bytes of adapters and predictions, and results without what clocks say."""
    found: dict[str, object] = {}
    for path in sorted(run_dir.glob("trials/*/**/*")):
        name = str(path.relative_to(run_dir))
        if path.name == "result.json":
            values = json.loads(path.read_text())
            found[name] = {key: value for key, value in values.items() if key not in _TIMES}
        elif path.is_file() and path.name != "events.jsonl":
            found[name] = path.read_bytes()
    return found
