"""The machine a study runs on: cores, memory, and the number format in which its matrix products are fastest."""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch

from remora.config.schema import EngineConfig, ModelConfig
from remora.errors import ResourceError
from remora.native import kernels
from remora.results.schema import Machine

_GAIN = 1.2
"""bfloat16 is chosen when its products run this many times faster than float32's."""
_ROWS, _IN, _OUT = 1024, 384, 1536


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1


@cache
def product_rate(dtype: torch.dtype, seconds: float = 0.15) -> float:
    """Floating-point operations per second of one thread in products of the size a small encoder makes, measured.

    The best of a few rounds, by the thread's own time: what other programs take would make one type look slower than
    the other, and which is chosen decides the bits of a study.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, w = torch.ones(_ROWS, _IN, dtype=dtype), torch.ones(_OUT, _IN, dtype=dtype)
        rounds: list[float] = []
        end = time.perf_counter() + seconds
        while len(rounds) < 3 or time.perf_counter() < end:
            start = time.thread_time()
            torch.nn.functional.linear(x, w)
            rounds.append(time.thread_time() - start)
        return 2 * _ROWS * _IN * _OUT / min(rounds)
    finally:
        torch.set_num_threads(threads)


@cache
def crowding(dtype: torch.dtype, workers: int, seconds: float = 0.15) -> float:
    """Wall time of a piece of work when `workers` threads compute at once, over a lone thread's own time for it.

    Measured: threads share memory bandwidth, caches, clock, perhaps one core's units, and what other programs leave.
    """

    def times(_: int) -> tuple[float, float]:
        torch.set_num_threads(1)
        x = torch.ones(_ROWS, _IN, dtype=dtype)
        up, down = torch.ones(_OUT, _IN, dtype=dtype), torch.ones(_IN, _OUT, dtype=dtype)
        rounds, wall, own = 0, time.perf_counter(), time.thread_time()
        while rounds < 3 or time.perf_counter() < wall + seconds:
            torch.nn.functional.linear(torch.nn.functional.gelu(torch.nn.functional.linear(x, up)), down)
            rounds += 1
        return (time.perf_counter() - wall) / rounds, (time.thread_time() - own) / rounds

    with ThreadPoolExecutor(workers) as pool:
        _, alone = pool.submit(times, 0).result()
        rates = [1 / wall for wall, _ in pool.map(times, range(workers))]
    return max(1.0, workers / sum(rates) / alone)


def settled_device(engine: EngineConfig) -> EngineConfig:
    """The same settings with the device named.

    Raises:
        ResourceError: a CUDA device was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if engine.device == "cuda" and not there:
        build = "" if torch.version.cuda else " (this torch is built without CUDA)"
        raise ResourceError(f"engine.device is cuda, but torch finds no CUDA device{build}", "set engine.device=cpu")
    if engine.device != "auto":
        return engine
    return engine.model_copy(update={"device": "cuda" if there else "cpu"})


def compute_device(engine: EngineConfig) -> torch.device:
    """The device of a process that trains: this process's current GPU, or the CPU."""
    device = settled_device(engine).device
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


def num_gpus(engine: EngineConfig) -> int | None:
    """GPUs that a study may use; None when it runs on the CPU."""
    return torch.cuda.device_count() if settled_device(engine).device == "cuda" else None


def choose_dtype(config: ModelConfig, engine: EngineConfig) -> torch.dtype:
    """The type in which the base is stored and computed: as configured, else what suits the device."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    if config.dtype != "auto":
        return named[config.dtype]
    if settled_device(engine).device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    faster = product_rate(torch.bfloat16) > _GAIN * product_rate(torch.float32)
    return torch.bfloat16 if faster else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` and so on."""
    return str(dtype).removeprefix("torch.")


def describe_machine(dtype: torch.dtype, engine: EngineConfig) -> Machine:
    """The machine in general terms, as far as a study used it: no host name, no path."""
    gpus = num_gpus(engine)
    return Machine(
        cpu=cpu_name(),
        cores=available_cores(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        torch=torch.__version__,
        dtype=dtype_name(dtype),
        accelerator=torch.cuda.get_device_name(0) if gpus else None,
        kernels=kernels.status()[0] and not gpus,
    )


def settle() -> None:
    """Exempt everything that is there now from later garbage collections, which would walk through it again and again.

    For a process that has loaded its libraries and its base model and will only train from now on.
    """
    gc.collect()
    gc.freeze()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_KEPT = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _TOP_PAD: 64 * 2**20}
_USUAL = {_TRIM_THRESHOLD: 128 * 2**10, _MMAP_MAX: 65536, _TOP_PAD: 128 * 2**10}


@contextmanager
def memory_kept() -> Generator[None]:
    """Let this process keep memory between operations as workers do by their environment (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for option, value in _KEPT.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        give_memory_back()


def give_memory_back() -> None:
    """Return freed memory to the system; workers otherwise keep it between operations, which is faster (glibc only)."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cpu_name() -> str:
    """The processor's, as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
