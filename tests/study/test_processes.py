"""Processes of a study: children of a nursery behave as processes that were started for the purpose."""

import os
import signal
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


def test_on_gpus_every_process_is_started_anew() -> None:
    with starting(on_gpus=True) as start:
        assert start is spawn
