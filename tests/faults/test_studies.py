"""Studies without a network, in a home of their own: nobody is asked for anything, nothing is written elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.moods import write_data, write_model
from tests.outcomes import outcome
from tests.results.synthetic import ROWS, build_run

ROOT = Path(__file__).resolve().parents[2]
SEALED = Path(__file__).resolve().parent / "sealed"


class Place:
    """Empty folders that a process takes for its home, its working directory and the place of temporary files."""

    def __init__(self, folder: Path) -> None:
        self.home, self.cwd, self.tmp = (folder / name for name in ("home", "cwd", "tmp"))
        for path in (self.home, self.cwd, self.tmp):
            path.mkdir(parents=True)
        self.log = folder / "network.log"

    def environment(self, **more: str) -> dict[str, str]:
        """As a user has it, without what tests set, and with every connection denied and noted."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("REMORA_", "HF_", "XDG_"))}
        path = os.pathsep.join([str(SEALED), str(ROOT / "src")])
        own = {"HOME": str(self.home), "TMPDIR": str(self.tmp), "SEALED_LOG": str(self.log), "PYTHONPATH": path}
        return {**kept, **own, **more}

    def files(self) -> set[str]:
        """Everything that was written, by its path below home, working directory and temporary folder."""
        return {
            str(path.relative_to(root.parent))
            for root in (self.home, self.cwd, self.tmp)
            for path in root.rglob("*")
            if path.is_file() or path.is_symlink()
        }


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("given")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    arguments = [
        "compare",
        "--model",
        str(model),
        "--data",
        str(data),
        "--methods",
        "lora",
        "--no-full",
        "--seeds",
        "2",
    ]
    return [*arguments, "protocol.tuning_trials=1", "protocol.epochs=2", "engine.lanes=1", "--out", "run"]


WITHOUT_NURSERY = """
from remora.cli.main import main
from remora.study import processes
processes.can_fork = lambda: False
main()
"""


def unplugged() -> list[str]:
    """What runs a command in a network namespace of its own, which has no way out, where the system allows that."""
    prefix = ["unshare", "--map-root-user", "--net"]
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    return prefix if works else []


@pytest.fixture(scope="module")
def sealed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study without network."""
    place = Place(tmp_path_factory.mktemp("sealed"))
    environment = place.environment(PYTHONHASHSEED="1")
    remora = [*unplugged(), sys.executable, "-P", "-m", "remora", *command, "engine.workers=1"]
    done = subprocess.run(remora, cwd=place.cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


def test_nothing_asks_for_the_network(sealed: Place) -> None:
    assert not sealed.log.exists(), sealed.log.read_text()
    assert (sealed.cwd / "run" / "report.html").is_file()


def test_the_same_bytes_however_it_is_run(command: list[str], sealed: Place, tmp_path: Path) -> None:
    """By more workers, each started anew, from another folder, in another language and time zone, with other hashes."""
    place = Place(tmp_path)
    (place.cwd / "inner").mkdir()
    environment = place.environment(
        PYTHONHASHSEED="2", LC_ALL="C", PYTHONUTF8="0", TZ="Asia/Tokyo", OMP_NUM_THREADS="3"
    )
    remora = [sys.executable, "-P", "-c", WITHOUT_NURSERY, *command, "engine.workers=2", "--json"]
    done = subprocess.run(remora, cwd=place.cwd / "inner", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = outcome(sealed.cwd / "run"), outcome(place.cwd / "inner" / "run")
    assert len(expected) > 10
    assert [name for name in expected if expected[name] != found.get(name)] == []
    assert set(found) == set(expected)


def test_the_seal_holds(tmp_path: Path) -> None:
    place = Place(tmp_path)
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], env=place.environment(), capture_output=True, check=False)
    assert done.returncode == 1
    assert "socket." in place.log.read_text()


def test_files_are_written_to_the_run_directory_and_the_cache_only(sealed: Place) -> None:
    files = sealed.files()
    elsewhere = {name for name in files if not name.startswith(("cwd/run/", "home/.cache/remora/"))}
    assert elsewhere == set()
    assert any(name.startswith("home/.cache/remora/") for name in files)  # so the listing sees something


def test_a_report_is_written_to_the_run_directory_and_the_cache_only(tmp_path: Path) -> None:
    place = Place(tmp_path)
    run_dir = build_run(place.cwd / "run", rows=ROWS[3:5], num_seeds=1)
    before = place.files()
    remora = [*unplugged(), sys.executable, "-P", "-m", "remora", "report", str(run_dir)]
    subprocess.run(remora, cwd=place.cwd, env=place.environment(), check=True, capture_output=True)
    new = place.files() - before
    assert "cwd/run/report.html" in new
    assert {name for name in new if not name.startswith(("cwd/run/", "home/.cache/remora/"))} == set()
    assert not place.log.exists()
