"""Processes of a study: children of a nursery behave as processes that were started for the purpose."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from remora.config.load import build_study, dump_yaml
from remora.study import processes
from remora.study.processes import Child, Nursery, Process, spawn, starting
from tests.moods import write_data, write_model

pytestmark = pytest.mark.skipif(not processes.can_fork(), reason="processes are forked on Linux only")

READY = '{"event": "ready"}\n'


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with its settings."""
    folder = tmp_path_factory.mktemp("study")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    given = {"model": {"id": str(model), "dtype": "float32"}, "data": str(data), "engine": {"device": "cpu"}}
    (folder / "study.yaml").write_text(dump_yaml(build_study(given)))
    return folder


def next_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ends(process: Process) -> tuple[str, str, int]:
    """What a process says that gets nothing more, and its exit code."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with process.stdout as out, process.stderr as err:
        return out.read(), err.read(), process.wait(60)


def pid_of(nursery: Nursery) -> int:
    assert nursery._process is not None  # pyright: ignore[reportPrivateUsage]
    return nursery._process.pid  # pyright: ignore[reportPrivateUsage]


def until(true: Callable[[], bool]) -> None:
    """Wait for what the nursery does once it has told of an end."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_child_fails_as_a_process_of_its_own_does(nursery: Nursery, tmp_path: Path) -> None:
    child, alone = (start("worker", [str(tmp_path)], 1) for start in (nursery.start, spawn))
    assert isinstance(child, Child)
    found, expected = ends(child), ends(alone)
    assert found[0::2] == expected[0::2] == ("", 1)
    assert found[1].splitlines()[-1] == expected[1].splitlines()[-1]
    assert child.poll() == 1
    child.terminate()  # nobody is left to whom it would go
    wrong = ends(nursery.start("worker", [str(tmp_path), "--threads", "many"], 1))
    assert wrong[2] == 2
    assert "--threads" in wrong[1]


def test_children_end_one_by_one_and_leave_nothing(nursery: Nursery, study: Path) -> None:
    ends(nursery.start("worker", [str(study)], 1))  # by now the nursery has opened what it opens
    until(lambda: not psutil.Process(pid_of(nursery)).children())
    time.sleep(0.5)  # then it closes the last two
    before = descriptors(os.getpid()), descriptors(pid_of(nursery))
    first, second, third = (nursery.start("worker", [str(study), "--threads", "1"], 1) for _ in range(3))
    assert [next_line(each) for each in (first, second, third)] == [READY] * 3
    names = {each.name() for each in psutil.Process(pid_of(nursery)).children()}
    assert names == {"remora-worker"}
    assert ends(first) == ("", "", 0)  # though the others, forked later, could have its pipes
    assert second.poll() is None
    second.terminate()
    assert ends(second) == ("", "", 128 + signal.SIGTERM)
    third.kill()
    assert ends(third)[2] == -signal.SIGKILL
    until(lambda: (descriptors(os.getpid()), descriptors(pid_of(nursery))) == before)


def test_a_child_has_the_threads_it_is_given(nursery: Nursery, study: Path) -> None:
    child = nursery.start("worker", [str(study), "--threads", "3"], 3)
    assert next_line(child) == READY
    (process,) = psutil.Process(pid_of(nursery)).children()
    assert process.num_threads() >= 3, "its own threads of OpenMP; those of the nursery would be missing"
    assert psutil.Process(pid_of(nursery)).num_threads() == 1
    ends(child)


def test_signals_for_all_are_left_to_the_children(nursery: Nursery, study: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(pid_of(nursery), number)
    child = nursery.start("worker", [str(study)], 1)
    assert isinstance(child, Child)
    child.terminate()  # at once, whatever it has come to
    assert ends(child)[2] in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_children_die_with_their_nursery_and_others_are_started_anew(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    with starting(on_gpus=False) as start, Nursery() as nursery:
        child = nursery.start("worker", [str(study)], 1)
        assert next_line(child) == READY
        os.kill(pid_of(nursery), signal.SIGKILL)
        assert ends(child)[2] == -signal.SIGKILL
        monkeypatch.setattr(processes, "spawn", lambda kind, *_: started.append(kind))
        for _ in range(2):
            nursery.start("solo", [str(study)], 1)
        assert started == ["solo", "solo"]
        assert start is not spawn


FORKED = """
import json, os, signal, sys, threading
import psutil
from remora.study.processes import Nursery

study, many = sys.argv[1], sys.argv[2] == "many"
if many:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
held = open(study + "/study.yaml")
signal.signal(signal.SIGTERM, lambda *_: print("the handler of the coordinator"))
sys.stdout.write("said once ")
with Nursery() as nursery:
    child = nursery.start("worker", [study, "--threads", "3"], 3)
    ready = child.stdout.readline()
    (process,) = psutil.Process().children()
    (its,) = process.children()
    found = {
        "forked": type(nursery._process).__name__,
        "ready": ready,
        "files": sorted(file.path for each in (process, its) for file in each.open_files()),
        "threads": [process.num_threads(), its.num_threads() >= 3],
        "same program": process.cmdline() == psutil.Process().cmdline(),
    }
    process.send_signal(signal.SIGTERM)
    its.send_signal(signal.SIGTERM)
    found["ends"] = child.wait(30)
    child.stdout.read()
found["left"] = len(psutil.Process().children())
print(json.dumps(found))
"""


@pytest.mark.parametrize("threads", ["one", "many"])
def test_a_process_of_one_thread_forks_its_nursery(study: Path, threads: str) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORKED, str(study), threads]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, found = done.stdout.split("{", 1)
    found = json.loads("{" + found)
    assert said == "said once "
    assert found["forked"] == ("_Forked" if threads == "one" else "Popen")
    assert found["same program"] == (threads == "one")
    assert found["ready"] == READY
    assert found["files"] == [], "what the coordinator has open ends with it"
    assert found["threads"] == [1, True]
    assert found["ends"] in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert found["left"] == 0


ADOPTED = """
import psutil
from remora.study.processes import adopt_environment

adopt_environment()
block = bytearray(64 * 2**20)
del block
print(psutil.Process().memory_info().rss)
"""


def test_memory_is_kept_as_in_a_process_started_for_training() -> None:
    sizes: list[int] = []
    for script in (ADOPTED, ADOPTED.replace("adopt_environment()\nblock", "block")):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        sizes.append(int(done.stdout))
    assert sizes[0] - sizes[1] > 50 * 2**20


def test_on_gpus_every_process_is_started_anew() -> None:
    with starting(on_gpus=True) as start:
        assert start is spawn
