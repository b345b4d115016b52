"""What `remora doctor` looks at; each check gives one line and, where it found something, what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from remora.errors import RemoraError
from remora.paths import cache_dir
from remora.results.wording import size

Verdict = Literal["ok", "warning", "failed"]

FLOORS = {"torch": (2, 10), "transformers": (5, 3), "safetensors": (0, 8)}
MIN_MEMORY = 2 * 2**30
MIN_DISK = 1 * 2**30
# A base linear layer of a small encoder over one pass: rows, in and out features.
ROWS, IN_FEATURES, OUT_FEATURES = 1600, 384, 1536


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor.

    Args:
        name: what was looked at.
        verdict: ok, warning (works, but worse than it could) or failed.
        found: what was found.
        hint: what to do; empty when nothing.
    """

    name: str
    verdict: Verdict
    found: str
    hint: str = ""


def check_version(package: str) -> Check:
    """Compare an installed package with the oldest version Remora supports."""
    floor = FLOORS[package]
    version = importlib.metadata.version(package)
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    wanted = ".".join(str(part) for part in floor)
    if numbers < floor:
        return Check(
            name=package,
            verdict="failed",
            found=f"{version}, older than {wanted}",
            hint=f"pip install '{package}>={wanted}'",
        )
    return Check(name=package, verdict="ok", found=f"{version} (needs {wanted} or newer)")


def check_device() -> Check:
    """Which processor the engine would use."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found = f"{properties.name}, {size(properties.total_memory)}, CUDA {torch.version.cuda}"
        return Check(name="device", verdict="ok", found=found)
    capability = torch.backends.cpu.get_cpu_capability()
    return Check(name="device", verdict="ok", found=f"CPU ({platform.machine()}, {capability}), no CUDA device")


def check_precision() -> Check:
    """Which precision a study would store the base in, and the measurement that decides it."""
    import torch

    from remora.config.schema import EngineConfig, ModelConfig
    from remora.study.machine import choose_dtype, dtype_name, product_rate

    full, half = product_rate(torch.float32) / 1e9, product_rate(torch.bfloat16) / 1e9
    chosen = dtype_name(choose_dtype(ModelConfig(id="any"), EngineConfig()))
    found = f"{chosen} base; one thread multiplies {half:.0f} GFLOP/s in bfloat16, {full:.0f} in float32"
    return Check(name="precision", verdict="ok", found=found)


def check_kernels() -> Check:
    """Whether the compiled kernels are there; without them training on CPU takes longer."""
    from remora.native import kernels

    there, found = kernels.status()
    if there:
        return Check(name="kernels", verdict="ok", found=f"compiled for this processor ({found})")
    hint = "install a C compiler (Debian: apt install gcc libc6-dev), or set CC to one"
    return Check(name="kernels", verdict="warning", found=found, hint=hint)


def check_attention() -> Check:
    """How attention would be computed with and without dropout of its probabilities, and why."""
    from remora.config.schema import EngineConfig, ModelConfig
    from remora.engine.attention_choice import NATIVE_LENGTH, choose, flash_here
    from remora.native import kernels
    from remora.study.machine import choose_dtype, compute_device

    device, dtype = compute_device(EngineConfig()), choose_dtype(ModelConfig(id="any"), EngineConfig())
    on, off = (
        choose(
            device_type=device.type,
            dtype=dtype,
            features=(64, 64),
            longest=NATIVE_LENGTH,
            softcap=False,
            dropping=dropping,
            native=kernels.status()[0],
            flash=flash_here(device),
        )
        for dropping in (True, False)
    )
    found = f"{off.computation} ({off.reason})"
    if on != off:
        found += f"; with dropout {on.computation} ({on.reason})"
    return Check(name="attention", verdict="ok", found=found)


def check_quantisation() -> Check:
    """What makes the dense weights of a base in 4-bit NormalFloat, after a round trip."""
    import torch

    from remora.config.schema import EngineConfig, ModelConfig
    from remora.models.nf4 import BLOCK, bitsandbytes_installed, dense_by_torch, quantise
    from remora.native import kernels
    from remora.study.machine import choose_dtype, compute_device

    device, dtype = compute_device(EngineConfig()), choose_dtype(ModelConfig(id="any"), EngineConfig())
    weight = torch.linspace(-1, 1, IN_FEATURES * BLOCK).view(IN_FEATURES, BLOCK)
    held = quantise(weight)
    if not torch.equal(held.dense(torch.float32), dense_by_torch(held, torch.float32)):
        return Check(
            name="quantisation",
            verdict="failed",
            found="NF4 weights come back different from the compiled kernel and from torch",
            hint="set REMORA_NATIVE=0, and report it",
        )
    if device.type == "cuda":
        there = bitsandbytes_installed()
        found = "bitsandbytes" if there else "torch operations"
        hint = "" if there else "pip install 'remora[quant]' for a faster kernel"
    else:
        found, hint = "compiled kernel" if kernels.usable_type(dtype) else "torch operations", ""
    return Check(name="quantisation", verdict="ok", found=f"NF4 weights are made dense by {found}", hint=hint)


def check_threads() -> Check:
    """Why a study runs one worker with one thread per core: what more threads give to one product, measured."""
    from remora.study.machine import available_cores

    cores = available_cores()
    if cores == 1:
        return Check(name="threads", verdict="ok", found="one core: one worker with one thread")
    gain = product_seconds(1) / product_seconds(cores)
    found = (
        f"{cores} cores: {cores} workers with one thread each; {cores} threads speed one product up {gain:.1f} times"
    )
    return Check(name="threads", verdict="ok", found=found)


def product_seconds(threads: int, *, seconds: float = 0.25) -> float:
    """Time of one product `ROWS` x `IN_FEATURES` x `OUT_FEATURES`; the number of threads set before is restored.

    Args:
        threads: threads of the product.
        seconds: how long to measure.

    Returns:
        The median in seconds.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, w = torch.ones(ROWS, IN_FEATURES), torch.ones(OUT_FEATURES, IN_FEATURES)
        rounds: list[float] = []
        stop = time.perf_counter() + seconds
        while len(rounds) < 3 or time.perf_counter() < stop:
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            rounds.append(time.perf_counter() - start)
        return sorted(rounds)[len(rounds) // 2]
    finally:
        torch.set_num_threads(before)


def check_memory() -> Check:
    """Free main memory."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} free of {size(memory.total)}"
    if memory.available < MIN_MEMORY:
        return Check(name="memory", verdict="warning", found=found, hint="close programs, or set engine.workers=1")
    return Check(name="memory", verdict="ok", found=found)


def check_disk(folder: Path) -> Check:
    """Free disk where run directories go."""
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free in {folder}"
    if free < MIN_DISK:
        return Check(
            name="disk", verdict="warning", found=found, hint="full fine-tuning stores whole models; free some space"
        )
    return Check(name="disk", verdict="ok", found=found)


def check_cache() -> Check:
    """Whether the cache folder can be written."""
    try:
        folder = cache_dir()
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_text("ok")
        probe.unlink()
    except OSError as error:
        return Check(
            name="cache", verdict="failed", found=str(error), hint="set REMORA_CACHE to a folder you can write to"
        )
    return Check(name="cache", verdict="ok", found=str(folder))


def check_demo_model() -> Check:
    """Whether the model of the demo is installed."""
    from remora.models.files import ALIASES

    alias = ALIASES["minilm"]
    try:
        version = importlib.metadata.version(alias.distribution)
    except importlib.metadata.PackageNotFoundError:
        return Check(name="minilm", verdict="warning", found="not installed; the demo needs it", hint=alias.install)
    return Check(name="minilm", verdict="ok", found=f"{alias.distribution} {version}")


def check_training() -> Check:
    """Train LoRA on a tiny random BERT for two steps through the engine."""
    from remora.engine.selftest import train_tiny

    start = time.perf_counter()
    try:
        loss, grad_norm = train_tiny()
    except (RemoraError, RuntimeError, ValueError) as error:
        return Check(
            name="training",
            verdict="failed",
            found=f"a step on a tiny model failed: {error}",
            hint="reinstall torch and transformers",
        )
    took = time.perf_counter() - start
    found = f"two LoRA steps on a tiny BERT: loss {loss:.3f}, gradient norm {grad_norm:.3f}, {took:.1f} s"
    return Check(name="training", verdict="ok", found=found)


def all_checks(folder: Path) -> list[Callable[[], Check]]:
    """The checks in the order shown.

    Args:
        folder: where run directories would go.
    """
    return [
        *(lambda package=package: check_version(package) for package in FLOORS),
        check_device,
        check_precision,
        check_kernels,
        check_attention,
        check_quantisation,
        check_threads,
        check_memory,
        lambda: check_disk(folder),
        check_cache,
        check_demo_model,
        check_training,
    ]
