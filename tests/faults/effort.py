"""How hard the tests of this folder try: a short form in every run, the full one with ``make test-faults``."""

import os

FULL = os.environ.get("REMORA_FAULTS") == "full"


def examples(short: int, full: int) -> int:
    """How many generated inputs to try."""
    return full if FULL else short
