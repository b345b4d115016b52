"""A method from a file outside the package: found, held to the contract, compared, reported, refused when broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from remora.errors import ConfigError
from remora.methods.plugins import VARIABLE, add_plugins, plugin_hash
from remora.methods.registry import get_method, list_methods
from tests.moods import write_data, write_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ssf.py"


def remora(*args: str) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own: a plug-in stays in the process that loaded it."""
    return subprocess.run([sys.executable, "-m", "remora", *args], capture_output=True, text=True, check=False)


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def test_an_example_is_about_forty_lines_long() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 45


def test_a_plugin_is_listed() -> None:
    done = remora("list", "methods", "--plugin", str(EXAMPLE), "--json")
    assert done.returncode == 0, done.stderr
    entry = next(entry for entry in json.loads(done.stdout) if entry["name"] == "ssf")
    assert entry["label"] == "SSF"
    assert entry["settings"] == ["targets"]
    assert "ssf" not in remora("list", "methods").stdout


def test_a_plugin_is_held_to_the_contract() -> None:
    """The contract tests take every method they find; among them one that a variable names."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-k", "ssf"]
    done = subprocess.run(
        [*command, "tests/contract"],
        cwd=ROOT,
        env=os.environ | {VARIABLE: str(EXAMPLE), "REMORA_CONTRACT": "ssf"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "failed" not in done.stdout
    assert int(done.stdout.strip().splitlines()[-1].split(" passed")[0].split()[-1]) > 10


def test_a_plugin_is_compared_and_its_adapter_used(tmp_path: Path) -> None:
    model, data, run_dir = write_model(tmp_path / "model"), write_data(tmp_path / "moods.csv"), tmp_path / "run"
    plugin = tmp_path / "mine.py"
    plugin.write_text(EXAMPLE.read_text())
    study = ["--model", str(model), "--data", str(data), "--methods", "ssf,lora", "--no-full"]
    study += ["--seeds", "2", "protocol.tuning_trials=1", "protocol.epochs=1", "--out", str(run_dir)]
    command = ["compare", "--plugin", str(plugin), *study]
    done = remora(*command, "--json")
    assert done.returncode == 0, done.stderr
    row = next(row for row in json.loads(done.stdout)["rows"] if row["method"] == "ssf")
    assert row["failed"] == 0
    assert "SSF" in (run_dir / "report.md").read_text()
    assert "plug-in ssf" in json.loads((run_dir / "study.json").read_text())["versions"]

    adapter, texts = str(run_dir / row["adapter"]), ["--text", "what a day"]
    assert remora("predict", adapter, *texts, "--plugin", str(plugin)).returncode == 0
    unknown = remora("predict", adapter, *texts)
    assert unknown.returncode == 2
    assert "--plugin" in unknown.stderr

    assert remora(*command).returncode == 0
    plugin.write_text(EXAMPLE.read_text() + "\n# another version\n")
    changed = remora(*command)
    assert changed.returncode == 2
    assert "not the one with which" in changed.stderr


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise ValueError('no')\n", "line 2: ValueError: no"),
        ("x = 1\n\ndef f(:\n", "line 3: SyntaxError"),
        ("import not_a_package_at_all\n", "line 1: ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    add_plugins([file])
    with pytest.raises(ConfigError, match=message):
        list_methods()


@pytest.mark.usefixtures("no_plugins")
def test_a_plugin_cannot_take_the_name_of_a_method(tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(EXAMPLE.read_text().replace('"ssf"', '"lora"'))
    add_plugins([file])
    with pytest.raises(ConfigError, match="two methods are called 'lora'"):
        list_methods()


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize("name", ["missing.py", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="no plug-in"):
        add_plugins([tmp_path / name])


def test_a_method_of_the_package_is_no_plugin() -> None:
    assert plugin_hash(type(get_method("lora"))) is None
