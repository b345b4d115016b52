"""No name from outside, however it is spelt, leads out of the run directory; nor does a link that lies in it."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remora.cli.build import find_study_file, study_name
from remora.cli.progress import SilentProgress
from remora.config.load import build_study
from remora.config.schema import StudyConfig
from remora.data.cards import embedded_folder, load_card
from remora.data.dataset import load_dataset
from remora.errors import ConfigError, DataError, ModelError, RemoraError, ResourceError
from remora.models.files import resolve
from remora.report.write import write_report
from remora.results.names import shown
from remora.results.store import read_result, slug, trial_dir, trial_id, within, write_atomic
from remora.study import processes
from remora.study.coordinator import coordinating
from tests.faults.effort import examples, tally
from tests.results.synthetic import ROWS, build_run

PIECES = (
    *(
        "..",
        ".",
        "/",
        "\\",
        "\0",
        "%2e%2e",
        "%2f",
        "%5c",
        "~",
        "~root",
        "C:",
        "\\\\host\\share",
        "file://",
        "a",
        "x.csv",
    ),
    # Look-alikes of dots and slashes; some become the real thing under NFKC.
    *("\u2024", "\u2025", "\u2026", "\uff0e", "\uff0f", "\u2044", "\u2215", "\u29f8", "\uff3c", "\u202e", "\ufeff"),
    *(" ", "\n", "\t", "\r", "\x7f", "\ud800", "-", "--help", "con", "nul", "é", "名", "$HOME", "`id`", ";", "|"),
)
NAMES = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join),
    st.text(max_size=300),
    st.just("../" * 20 + "tmp/evil"),
    st.just("a" * 300),
)
ALLOWED = set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(NAMES)
@settings(max_examples=examples(300, 20_000))
def test_a_label_becomes_a_plain_folder_name(label: str) -> None:
    tally("names tried", 1)
    name = trial_id(label, 3, {"label": "x"})
    for part in (slug(label), name):
        assert set(part) <= ALLOWED
        assert not part.startswith("-")
        assert len(part) < 80
    root = Path("/run")
    assert within(root, "trials", name) == root / "trials" / name


@given(NAMES)
@settings(max_examples=examples(300, 20_000))
def test_a_trial_id_stays_inside_or_is_refused(name: str) -> None:
    tally("names tried", 1)
    root = Path("/run")
    try:
        path = trial_dir(root, name)
    except DataError:
        return
    assert Path(os.path.normpath(path)).parent == root / "trials"


@given(NAMES)
@settings(max_examples=examples(300, 20_000))
def test_a_study_name_is_plain_or_refused(name: str) -> None:
    tally("names tried", 1)
    try:
        study = build_study({"name": name, "model": "m", "data": "d"})
    except ConfigError:
        return
    assert Path(os.path.normpath(f"/runs/{study.name}-0")).parent == Path("/runs")
    assert study.name.isascii()
    assert len(study.name) <= 100


@given(NAMES, NAMES)
@settings(max_examples=examples(300, 20_000))
def test_a_study_named_after_its_data_has_a_plain_name(model: str, data: str) -> None:
    tally("names tried", 1)
    StudyConfig.model_validate({"name": study_name(model, data), "model": {"id": "m"}, "data": {"path": "d"}})


@given(NAMES)
@settings(max_examples=examples(300, 5_000))
def test_cards_and_recipes_come_from_their_folder_only(name: str) -> None:
    tally("names tried", 1)
    assert embedded_folder(name) is None
    assert load_card(name) is None
    with pytest.raises(ConfigError):
        find_study_file(f"recipe:{name}")


@settings(max_examples=examples(200, 5_000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_models_and_data_that_are_not_there_are_errors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally("names tried", 1)
    asked: list[str] = []

    def download(repo: str, revision: str | None, **_: object) -> str:
        asked.extend((repo, revision or ""))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        resolve(f"no-such-owner/{name}")
    with pytest.raises(ModelError):
        resolve("owner/name", name or "..")
    for text in asked:
        assert text.isascii()
        assert not set(text) & set("\\\0% ~")
    assert ".." not in "".join(asked[1::2])
    monkeypatch.setitem(sys.modules, "datasets", None)  # the package that asks the Hub
    with pytest.raises(RemoraError):
        load_dataset(build_study({"model": "m", "data": f"/no-such-folder/{name}"}).data)


@given(NAMES)
@settings(max_examples=examples(300, 20_000))
def test_what_is_shown_is_one_line_that_can_be_encoded(name: str) -> None:
    tally("names tried", 1)
    text = shown(name)
    text.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c == "\u202e" for c in text)
    assert len(text) <= 60


def test_hub_ids_that_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("owner/..", "owner/a--b", "owner/a..b", "owner/name.git"):
        with pytest.raises(ModelError):
            resolve(name)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    found = build_run(tmp_path / "run", rows=ROWS[3:5], num_seeds=1)
    write_report(found)
    return found


def test_a_link_in_the_way_of_a_report_is_refused(run_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(run_dir / "figures")
    (run_dir / "figures").symlink_to(outside)
    with pytest.raises(DataError, match="a link that leads to"):
        write_report(run_dir)
    assert list(outside.iterdir()) == []


def test_a_file_that_is_a_link_is_replaced_not_followed(run_dir: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run_dir / "note.json").symlink_to(precious)
    write_atomic(run_dir / "note.json", b"new")
    assert precious.read_text() == "mine"
    assert (run_dir / "note.json").read_text() == "new"
    assert not (run_dir / "note.json").is_symlink()


def test_the_lock_does_not_empty_what_a_link_leads_to(tmp_path: Path) -> None:
    precious, run_dir = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    lock = run_dir / "packs" / "coordinator.000001.lease"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(precious)
    with pytest.raises(ResourceError, match="cannot be written"), coordinating(run_dir, 2, SilentProgress()):
        pass
    assert precious.read_text() == "mine"
    lock.unlink()
    with coordinating(run_dir, 2, SilentProgress()):
        assert lock.is_file()
    lock.parent.rename(tmp_path / "elsewhere")
    (run_dir / "packs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a link that leads to"), coordinating(run_dir, 2, SilentProgress()):
        pass


def test_a_run_directory_that_is_a_link_itself_is_fine(run_dir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run_dir)
    before = (run_dir / "report.html").read_bytes()
    write_report(link)
    assert (run_dir / "report.html").read_bytes() == before


def test_a_result_that_names_another_trial_is_refused(run_dir: Path, tmp_path: Path) -> None:
    path = next((run_dir / "trials").glob("lora*/result.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "trial": "../../outside"}))
    with pytest.raises(DataError, match="is the result of trial"):
        write_report(run_dir)
    with pytest.raises(DataError, match="no name in a run directory"):
        read_result(run_dir, "../../outside")


def test_processes_of_a_study_import_nothing_from_the_working_directory(tmp_path: Path) -> None:
    """A downloaded folder may hold a torch.py; whoever runs a study in it must not run that file."""
    ran = tmp_path / "ran"
    (tmp_path / "torch.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit(3)\n")
    (tmp_path / "numpy.py").write_text((tmp_path / "torch.py").read_text())
    starts = {path.name: path.read_text() for path in Path(processes.__file__).parent.glob("*.py")}
    starts = {name: text for name, text in starts.items() if "sys.executable" in text}
    assert set(starts) == {"processes.py", "slurm.py"}
    for name, text in starts.items():
        assert text.count('"-m"') == text.count('"-P", "-m"') == text.count("sys.executable") == 1, name
    for flags, code in ((["-P"], 0), ([], 3)):
        command = [sys.executable, *flags, "-m", "remora.study.trials"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, check=False, env=processes.process_environment(1)
        )
        assert (done.returncode, ran.exists()) == (code, code == 3)
