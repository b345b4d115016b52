"""Which device a study runs on and what follows from it; the presence of GPUs is made up."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from remora.config.load import build_study, dump_yaml, read_study
from remora.config.schema import EngineConfig, ModelConfig
from remora.errors import ResourceError
from remora.models.base import placed
from remora.study import context, machine, resident
from remora.study.launch import Workers, shares
from remora.study.machine import choose_dtype, compute_device, describe_machine, num_gpus, settled_device
from remora.study.packs import Packing, packing
from remora.study.processes import process_environment
from tests.tiny import tiny_base

AUTO, CPU, CUDA = (EngineConfig(device=name) for name in ("auto", "cpu", "cuda"))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_used_where_there_is_one_unless_the_cpu_is_asked_for() -> None:
    assert settled_device(AUTO) == settled_device(CUDA) == CUDA
    assert settled_device(CPU) == CPU
    assert compute_device(AUTO) == torch.device("cuda", 1), "the process's own"
    assert compute_device(CPU) == torch.device("cpu")
    assert (num_gpus(AUTO), num_gpus(CPU)) == (2, None)
    assert choose_dtype(ModelConfig(id="any"), AUTO) == torch.bfloat16
    assert choose_dtype(ModelConfig(id="any", dtype="float32"), AUTO) == torch.float32


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error() -> None:
    assert settled_device(AUTO) == CPU
    assert num_gpus(AUTO) is None
    with pytest.raises(ResourceError, match="no CUDA device") as caught:
        settled_device(CUDA)
    assert "engine.device=cpu" in str(caught.value)


@pytest.mark.usefixtures("two_gpus")
def test_the_precision_of_the_cpu_is_measured_even_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "product_rate", lambda dtype: 1.0)
    assert choose_dtype(ModelConfig(id="any"), CPU) == torch.float32


def test_what_other_programs_take_is_no_part_of_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that was measured while others computed would seem slow, and another be chosen the next time."""
    wall, own = [0.0], [0.0]

    def interrupted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        wall[0] += 1.0
        own[0] += 0.001
        return x

    clocks = SimpleNamespace(perf_counter=lambda: wall[0], thread_time=lambda: own[0])
    monkeypatch.setattr(machine, "time", clocks)
    monkeypatch.setattr(torch.nn.functional, "linear", interrupted)
    assert machine.product_rate.__wrapped__(torch.float32, 0.01) == pytest.approx(
        2 * machine._ROWS * machine._IN * machine._OUT / 0.001  # pyright: ignore[reportPrivateUsage]
    )


@pytest.mark.usefixtures("two_gpus")
def test_the_machine_is_described_as_it_was_used() -> None:
    assert describe_machine(torch.bfloat16, CUDA).accelerator == "GPU 0"
    assert not describe_machine(torch.bfloat16, CUDA).kernels
    assert describe_machine(torch.bfloat16, CPU).accelerator is None


def test_the_plan_depends_on_the_device_and_on_nothing_measured() -> None:
    assert (CPU.pass_tokens, AUTO.pass_tokens, CUDA.pass_tokens) == (2400, 2400, 16384)
    assert EngineConfig(device="cuda", tokens_per_pass=4096).pass_tokens == 4096
    assert packing(CPU, 16, 13) == Packing(slots=4, multiple=2)
    assert [packing(CUDA, 16, length) for length in (13, 64, 5000)] == [Packing(slots=n) for n in (64, 16, 1)]


def test_a_study_keeps_the_device_it_came_to(tmp_path: Path) -> None:
    study = build_study({"model": "minilm", "data": "helpdesk", "engine": {"device": "cuda"}})
    (tmp_path / "study.yaml").write_text(dump_yaml(study))
    assert read_study(tmp_path / "study.yaml").engine == CUDA


def test_one_worker_per_gpu_even_where_more_are_asked_for() -> None:
    auto: dict[str, int | None] = {"workers": None, "threads": None}
    assert shares(16, 9, auto, gpus=2) == (2, 8)
    assert shares(16, 1, auto, gpus=2) == (1, 16)
    assert shares(16, 9, {"workers": 4, "threads": None}, gpus=2) == (2, 8)


class Silent:
    """A process that was started and says nothing."""

    def __init__(self, kind: str, arguments: Sequence[str], threads: int) -> None:
        self.arguments, self.returncode = list(arguments), None
        self.stdin, self.stdout, self.stderr = StringIO(), StringIO(), StringIO()

    def poll(self) -> int | None:
        return None

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        pass


@pytest.mark.parametrize("gpus", [True, False])
def test_a_new_worker_takes_the_gpu_of_the_one_that_died(gpus: bool) -> None:
    workers = Workers(Path("run"), 2, 1, gpus=gpus, start=Silent)
    workers._start()
    workers._start()
    first = workers._workers[0]
    workers._bury(first)
    workers._start()
    given = [worker.process.arguments for worker in workers._workers]
    assert [each[-2:] == ["--gpu", number] for each, number in zip(given, "10", strict=True)] == [gpus, gpus]
    assert process_environment(1)["OMP_NUM_THREADS"] == "1"


def test_a_base_that_is_moved_leaves_the_other_copy_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")
    monkeypatch.setattr(context, "load_base", lambda *_, **__: tiny_base("bert"))
    study = build_study({"model": "minilm", "data": "helpdesk"})
    fields = {"config": study, "dataset": None, "task": None, "max_length": 8, "encoder": None}
    opened = context.StudyContext(base=base, **fields)  # type: ignore[arg-type]
    assert opened.base_on(torch.device("cpu"), "none") is base
    moved = opened.base_on(torch.device("meta"), "none")
    assert moved.device.type == "meta"
    assert {tensor.device.type for tensor in moved.pooler.values()} == {"meta"}
    assert base.device.type == "cpu"


def test_a_moved_base_is_the_same_base() -> None:
    before = tiny_base("llama", torch.bfloat16)
    assert placed(tiny_base("llama", torch.bfloat16), torch.device("cpu")).hash() == before.hash()


def test_peak_memory_on_a_gpu_is_what_tensors_took(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12345)
    device = torch.device("cuda", 0)
    resident.reset_peak(device)
    assert calls == [device]
    assert resident.peak_bytes(device) == 12345
    assert resident.peak_bytes(torch.device("cpu")) > 2**20
