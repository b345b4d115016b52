import subprocess
import sys

import click
import pytest

from remora.cli import main
from remora.cli.lazy import CommandEntry, LazyGroup
from remora.cli.signals import Terminated
from remora.errors import ConfigError, DataError, ResourceError

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pydantic",
    "pyarrow",
    "sklearn",
    "scipy",
    "matplotlib",
    "yaml",
    "rich",
    "jinja2",
)


@pytest.mark.parametrize("args", [["--help"], ["--version"], [], *([name, "--help"] for name in main.ENTRIES)])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom remora.cli.main import run_cli\n"
        f"run_cli({args!r})\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_cli(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in (
        "demo",
        "compare",
        "train",
        "run",
        "resume",
        "evaluate",
        "predict",
        "export",
        "report",
        "list",
        "validate",
        "doctor",
    ):
        assert f"\n  {name} " in shown


@pytest.mark.parametrize("name", sorted(main.ENTRIES))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_cli([name, "--help"]) == 0
    assert "Usage: remora" in capsys.readouterr().out


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_cli(["comapre"]) == 2
    captured = capsys.readouterr()
    assert "Did you mean 'compare'?" in captured.err
    assert captured.out == ""


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_cli(["compare", "--modle", "x"]) == 2
    assert "--model" in capsys.readouterr().err


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            ConfigError("study.yaml:3: no setting 'epoch'", "did you mean epochs?"),
            2,
            "error: study.yaml:3: no setting 'epoch'\n  hint: ",
        ),
        (DataError("a.csv:7: empty label"), 3, "error: a.csv:7: empty label"),
        (ResourceError("disk is full"), 4, "error: disk is full"),
        (MemoryError(), 4, "error: out of memory"),
        (OSError(28, "No space left on device", "x"), 4, "error: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(), 143, ""),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "cli", failing(error))
    assert main.run_cli([]) == code
    captured = capsys.readouterr()
    assert captured.err.lstrip("\n").startswith(said)
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_our_own_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "cli", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main.run_cli([])


def test_group_imports_only_what_runs() -> None:
    group = LazyGroup(
        {"broken": CommandEntry(target="no.such.module:x", summary="Never imported.")}, name="g", help="h"
    )
    context = click.Context(group)
    assert group.list_commands(context) == ["broken"]
    assert group.get_command(context, "other") is None
    assert "Never imported." in group.get_help(context)


def test_the_package_offers_its_functions_without_importing_them() -> None:
    code = (
        "import sys, remora\nassert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert [callable(remora.compare) for _ in range(2)] == [True, True]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
