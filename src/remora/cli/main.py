"""Entry point of ``remora``: the list of commands, exit codes, signals."""

import errno
import os
import signal
import sys

import click

from remora import __version__
from remora.cli.console import say
from remora.cli.lazy import CommandEntry, LazyGroup
from remora.cli.signals import Terminated, raise_on_sigterm
from remora.errors import RemoraError, ResourceError
from remora.paths import cache_path

_RESOURCE_ERRNO = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    }
)

HELP = """Which fine-tuning method should I use on my text data, how well does it really do, and what does it cost?

Start with `remora demo`, then `remora compare --model minilm --data YOUR.csv`.

\b
Exit codes: 0 ok, 2 usage, 3 data, 4 resources, 5 some trials failed,
130 interrupted, 143 terminated. Data goes to stdout, talk to stderr."""


def _entry(module: str, attribute: str, summary: str) -> CommandEntry:
    return CommandEntry(target=f"remora.cli.{module}:{attribute}", summary=summary)


ENTRIES = {
    "demo": _entry("studies", "demo", "Compare methods on the embedded model and data; a few minutes."),
    "compare": _entry("studies", "compare", "Compare fine-tuning methods on your data."),
    "train": _entry("studies", "train", "Train one method and keep its adapter."),
    "run": _entry("studies", "run", "Run a study file or a shipped recipe."),
    "resume": _entry("studies", "resume", "Go on with a run directory that was stopped."),
    "worker": _entry("cluster", "worker", "Take part in a run directory's study, on any machine that has the folder."),
    "slurm": _entry("cluster", "slurm", "Write a SLURM job array that runs a study."),
    "evaluate": _entry("use", "evaluate", "Score an adapter on labelled data."),
    "predict": _entry("use", "predict", "Label texts with an adapter."),
    "annotate": _entry(
        "annotate", "annotate", "Label a file with a language model, and train an encoder on the labels."
    ),
    "export": _entry("export", "export", "Write an adapter for peft, vLLM or transformers."),
    "report": _entry("report", "report", "Write the report of a run directory again."),
    "list": _entry("listing", "list_group", "List methods, models, datasets or recipes."),
    "validate": _entry("validate", "validate", "Check a study file and show what it would cost."),
    "doctor": _entry("doctor", "doctor", "Check this machine: versions, precision, memory, one training step."),
}

cli = click.version_option(__version__, prog_name="remora")(LazyGroup(ENTRIES, name="remora", help=HELP))


def _print_error(error: RemoraError) -> int:
    say(f"error: {error}")
    return error.exit_code


def run_cli(args: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: the arguments after ``remora``; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        code = cli.main(args=args, prog_name="remora", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except RemoraError as error:
        return _print_error(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Terminated:
        return 128 + signal.SIGTERM
    except MemoryError:
        return _print_error(ResourceError("out of memory", "use a smaller model, shorter texts or engine.workers=1"))
    except OSError as error:
        if error.errno not in _RESOURCE_ERRNO:
            raise
        return _print_error(
            ResourceError(str(error), "check free disk space, memory and the permissions of the folder")
        )


def main() -> None:
    """Run the command line of the process and exit with its code."""
    raise_on_sigterm()
    # numpy's library of matrix products would start threads on import; nothing here multiplies large ones with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # matplotlib keeps a list of fonts; otherwise in folders of its own in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_path() / "matplotlib"))
    sys.exit(run_cli())
