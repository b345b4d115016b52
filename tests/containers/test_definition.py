"""The Apptainer definition, as far as it can be checked without Apptainer: its parts, its files, its commands."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = ROOT / "containers" / "remora.def"
SECTIONS = ["arguments", "labels", "help", "files", "post", "environment", "test", "runscript"]


@pytest.fixture(scope="module")
def sections() -> dict[str, list[str]]:
    """Section -> its lines without indentation, comments and blanks; "" is what comes before the first."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in DEFINITION.read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            assert name not in found
            found[name] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


def copied(sections: dict[str, list[str]]) -> dict[str, str]:
    """What the image gets: path in the repository -> path inside."""
    return dict(line.split() for line in sections["files"])


def test_it_has_its_sections_and_a_base(sections: dict[str, list[str]]) -> None:
    assert [name for name in sections if name] == SECTIONS
    header = dict(line.split(": ") for line in sections[""])
    assert header["Bootstrap"] == "docker"
    version = re.fullmatch(r"python:(\d)\.(\d+)-slim-bookworm", header["From"])
    assert version is not None
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == ">=3.11"
    assert (int(version[1]), int(version[2])) >= (3, 11)


def test_it_installs_what_make_installs(sections: dict[str, list[str]]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("$(RUN_STAMP): requirements.lock")[1].split("\n\n")[0].splitlines()[1:]
    expected = [
        line.strip().replace("$(BIN)/python", "python").replace("$(TORCH)", "{{ TORCH }}").replace("-e .", ".")
        for line in recipe
        if "pip install" in line
    ]
    here = [line.replace("--no-cache-dir ", "") for line in sections["post"] if "pip install" in line]
    assert here == expected
    assert len(here) == 3
    torch = re.search(r"(?m)^TORCH \?= (.*)$", makefile)
    assert torch is not None
    assert sections["arguments"] == [f"TORCH={torch[1]}"]


def test_its_scripts_are_shell_and_run_the_command_line(sections: dict[str, list[str]]) -> None:
    for name in ("post", "environment", "test", "runscript"):
        text = "\n".join(sections[name]).replace("{{ TORCH }}", "torch")
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
    assert sections["runscript"] == ['exec remora "$@"']
    assert "remora" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "set -eu" in sections["post"], "a command that fails must fail the build"


def test_the_files_it_copies_are_enough_to_build_the_package(sections: dict[str, list[str]], tmp_path: Path) -> None:
    inside = {target: ROOT / source for source, target in copied(sections).items()}
    (folder,) = {shlex.split(line)[1] for line in sections["post"] if line.startswith("cd ")}
    for target, source in inside.items():
        place = tmp_path / Path(target).relative_to(folder)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, place, ignore=ignore) if source.is_dir() else shutil.copy(source, place)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("remora-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "src/remora"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.removeprefix("src/") for name in tracked} <= names
