"""Turn whatever another library raises on a stranger's files into one clear error."""

import contextlib
from collections.abc import Generator

from remora.errors import ModelError, RemoraError

_LONGEST = 500


@contextlib.contextmanager
def parsing(what: str, hint: str) -> Generator[None]:
    """Around a call of transformers, tokenizers or safetensors that reads files of an unknown maker.

    Bad files make them raise any exception there is (TypeError, AttributeError, RecursionError, their own ones, a bare
    Exception), so around these calls, and only these, all of them are caught. Lack of memory is no fault of the file
    and an error of ours is clear already: both pass.

    Args:
        what: what is wrong then, such as ``"minilm: the weights cannot be read"``; the library's words follow.
        hint: how to mend it.

    Raises:
        ModelError: instead of any other exception.
    """
    try:
        yield
    except (MemoryError, RemoraError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {_short(error)}", hint) from error


def _short(error: Exception) -> str:
    """The error on one line that does not repeat a whole file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
