"""The errors a user can cause: each says what is wrong and where, and how to mend it, and carries its exit code."""


class RemoraError(Exception):
    """A user's mistake or a limit of the machine; the command line prints it without a traceback.

    Args:
        message: what is wrong and where (file, line, value).
        hint: how to mend it; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(RemoraError):
    """A setting, a study file or a command line that cannot be right."""

    exit_code = 2


class ModelError(RemoraError):
    """A base model that is missing, unsafe, broken or of an unknown architecture."""

    exit_code = 2


class DataError(RemoraError):
    """Rows, columns or labels that cannot be used."""

    exit_code = 3


class AdapterError(RemoraError):
    """An adapter folder that is incomplete, corrupt or made for another base."""

    exit_code = 3


class ResourceError(RemoraError):
    """Not enough memory, disk or permission, or a missing optional package."""

    exit_code = 4
