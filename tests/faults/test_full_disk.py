"""No room, no permission: what existed survives, there is one clear error, and the exit code is 4."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from remora.adapters.folder import write_tensors, written_whole
from remora.engine.trial import TrialSpec
from remora.errors import ResourceError
from remora.report.write import write_report
from remora.study import launch
from remora.study.leases import Ticket
from remora.study.packs import PlannedPack
from remora.study.trials import PlannedTrial
from tests.faults.effort import examples, tally
from tests.moods import write_data, write_model
from tests.results.synthetic import ROWS, build_run
from tests.study.test_killed import outcome

REPORT = [sys.executable, "-m", "remora", "report"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    found = build_run(tmp_path / "run", rows=ROWS[3:5], num_seeds=1)
    write_report(found)
    return found


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def one_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


def few_bytes() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def test_files_may_not_grow(run_dir: Path) -> None:
    before = digests(run_dir)
    assert max(len(path.read_bytes()) for path in run_dir.glob("report.*")) > 4000
    done = subprocess.run([*REPORT, str(run_dir)], capture_output=True, text=True, check=False, preexec_fn=few_bytes)
    assert done.returncode == 4, done.stderr
    assert "too large" in one_error(done.stderr)
    assert digests(run_dir) == before


def namespaces() -> bool:
    """Whether this user may mount in a namespace of their own."""
    try:
        command = ["unshare", "--map-root-user", "--mount", "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


SCRIPT = """
mount -t tmpfs -o size=2m none "$1" && cp -r "$2" "$1/run" || exit 99
case "$3" in
    full) dd if=/dev/zero of="$1/filler" bs=1k count=4096 2> "$1/../dd" ;;
    read-only) mount -o remount,ro "$1" || exit 99 ;;
esac
"$4" -m remora report "$1/run"
code=$?
cp -r "$1/run" "$5"
exit $code
"""


@pytest.mark.skipif(not namespaces(), reason="no permission to mount a small disk")
@pytest.mark.parametrize(
    ("state", "code", "said"), [("full", 4, "No space left"), ("read-only", 4, "Read-only"), ("", 0, "")]
)
def test_disks_that_take_nothing(run_dir: Path, tmp_path: Path, state: str, code: int, said: str) -> None:
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", str(disk), str(run_dir), state]
    done = subprocess.run([*command, sys.executable, str(after)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code:
        assert said in one_error(done.stderr)
    assert digests(after) == digests(run_dir)
    assert os.listdir(disk) == []


STUDY = """
disk=$1 kilobytes=$2 after=$3
shift 3
mount -t tmpfs -o size=4m none "$disk" || exit 99
dd if=/dev/zero of="$disk/filler" bs=1k count=$((4096 - kilobytes)) 2> "$disk/../dd" || exit 99
"$@" --out "$disk/run"
code=$?
rm "$disk/filler"
"$1" -m remora resume "$disk/run" || exit 98
cp -r "$disk/run" "$after"
exit $code
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A command line without its run directory, and the run directory of one that had room."""
    folder = tmp_path_factory.mktemp("roomy")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    command = [sys.executable, "-m", "remora", "compare", "--model", str(model), "--data", str(data)]
    command += ["--methods", "lora,bitfit", "--no-full", "--seeds", "1"]
    command += ["protocol.tuning_trials=1", "protocol.epochs=8", "engine.checkpoint_seconds=0.1"]
    subprocess.run([*command, "--out", str(folder / "run")], capture_output=True, check=True)
    return command, folder / "run"


@pytest.mark.skipif(not namespaces(), reason="no permission to mount a small disk")
@pytest.mark.parametrize("kilobytes", (200, 48, 128, 280, 360)[: examples(1, 5)])
def test_a_study_whose_disk_fills_up_is_taken_up_again(
    study: tuple[list[str], Path], kilobytes: int, tmp_path: Path
) -> None:
    """At every size another file is the first for which there is no room."""
    command, roomy = study
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    cramped = ["unshare", "--map-root-user", "--mount", "sh", "-c", STUDY, "sh", str(disk), str(kilobytes), str(after)]
    done = subprocess.run([*cramped, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "No space left" in one_error(done.stderr)
    assert outcome(after) == outcome(roomy)
    tally("full disks survived", 1)


class FullWorker:
    """Stands for a worker that has trained a trial and cannot write it."""

    def __init__(self, number: int, process: Any, events: Any) -> None:
        self.pack: PlannedPack | None = None
        self.ready, self.log, self.events = False, [], events
        self.process = SimpleNamespace(wait=lambda *_: 4, returncode=4, terminate=lambda: None)
        events.put((self, {"event": "ready"}))

    def give(self, pack: PlannedPack, done: frozenset[str], ticket: Ticket) -> None:
        self.pack = pack
        self.events.put((self, {"event": "resources", "text": "[Errno 28] No space left on device"}))
        self.events.put((self, None))

    def dismiss(self) -> None:
        pass


def test_a_worker_without_room_ends_the_study_with_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_Worker", FullWorker)
    spec = TrialSpec(id="a", method="lora", lr=1e-3)
    trial = PlannedTrial(spec=spec, label="lora", family="low-rank", purpose="final", hyperparameters={})
    pack = PlannedPack(id="p", trials=(trial,), slots=4)
    lost: list[str] = []
    with (
        launch.Workers(tmp_path, 1, 1, start=lambda *_: SimpleNamespace()) as workers,
        pytest.raises(ResourceError, match="No space left") as caught,
    ):
        workers.run([pack], frozenset(), lambda event: None, lambda trial, error: lost.append(trial.spec.id))
    assert caught.value.exit_code == 4
    assert "finished trials are kept" in caught.value.hint
    assert lost == []  # it is not the trial that failed


def test_tensors_without_room_are_a_resource_error(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with written_whole(folder) as aside:
        write_tensors(aside / "a.safetensors", {"a": torch.ones(8)})
    before = digests(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(ResourceError, match="cannot be written"), written_whole(folder) as aside:
            write_tensors(aside / "a.safetensors", {"a": torch.ones(8000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    shutil.rmtree(folder)
