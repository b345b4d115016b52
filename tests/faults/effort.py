"""How hard the tests of this folder try, and what they count for the page on reliability.

In every run they take a short form; ``make test-faults`` takes the full one and has them write down how many inputs
were tried, processes killed and so on, one line per count, since tests may run in several processes.
"""

import json
import os
from pathlib import Path

FULL = os.environ.get("REMORA_FAULTS") == "full"
TALLY = os.environ.get("REMORA_FAULTS_TALLY")


def examples(short: int, full: int) -> int:
    """How many generated inputs to try."""
    return full if FULL else short


def tally(what: str, count: int) -> None:
    """Write down that something was tried so many times and went well.

    Args:
        what: a key of ``scripts/reliability_page.py``.
        count: how often.
    """
    if TALLY:
        with Path(TALLY).open("a") as file:
            file.write(json.dumps({"what": what, "count": count}) + "\n")
