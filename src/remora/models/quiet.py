"""Silence transformers while it loads: fresh heads are expected here, and progress bars are the command line's."""

import contextlib
import logging
from collections.abc import Generator

from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """No warnings and no progress bars from transformers inside; both are put back afterwards."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, hf_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
