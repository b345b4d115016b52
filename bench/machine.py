"""The machine in general terms, and how fast it multiplies matrices of a base model's shapes.

``python -m bench.machine [--threads N] [--model minilm]`` prints the rates as JSON. The rate is that of products alone
with operands in cache: the bound that a training step could approach if nothing else took time.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.models import model_folder

ROWS = 416  # 16 sentences of 26 tokens
EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The linear layers of a base's stack: (in, out, count)."""

    layers: tuple[tuple[int, int, int], ...]

    @property
    def num_weights(self) -> int:
        """Weights a token meets on its way through the stack."""
        return sum(rows * columns * count for rows, columns, count in self.layers)

    @property
    def flops_per_token(self) -> int:
        """Of a training step over a frozen stack: forward 2N and backward 2N (no weight gradients)."""
        return 4 * self.num_weights


def shapes_of(model: str) -> Shapes:
    """Shapes of a BERT's or a LLaMA's stack from its configuration file.

    Raises:
        ValueError: another model type.
    """
    config = json.loads((Path(model_folder(model)) / "config.json").read_text(encoding="utf-8"))
    hidden, inner, depth = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    if config["model_type"] == "llama":
        narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
        attention = ((hidden, hidden, 2 * depth), (hidden, narrow, 2 * depth))
        return Shapes(layers=(*attention, (hidden, inner, 2 * depth), (inner, hidden, depth)))
    if config["model_type"] != "bert":
        raise ValueError(f"the shapes of a {config['model_type']} are not known here")
    return Shapes(layers=((hidden, hidden, 4 * depth), (hidden, inner, depth), (inner, hidden, depth)))


def cpu_flags() -> tuple[str, ...]:
    """The instruction set extensions that matter for matrix products, as the kernel names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    words = set(text.split())
    return tuple(flag for flag in EXTENSIONS if flag in words)


def describe() -> dict[str, Any]:
    """Cores, instruction set, memory, versions; nothing that names the machine."""
    import peft
    import psutil
    import torch
    import transformers

    return {
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "architecture": platform.machine(),
        "extensions": list(cpu_flags()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def product_rates(model: str, threads: int) -> dict[str, float]:
    """FLOP/s of the stack's products in a fresh process, by precision.

    Args:
        model: alias or folder.
        threads: compute threads.
    """
    command = [sys.executable, "-m", "bench.machine", "--model", model, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(model: str, threads: int, seconds: float = 0.25) -> dict[str, float]:
    """FLOP/s in this process: every shape is repeated for a while, the stack's time is the sum over its layers."""
    import torch

    torch.set_num_threads(threads)
    shapes = shapes_of(model)
    rates: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        stack_seconds = 0.0
        for num_in, num_out, count in shapes.layers:
            x, weight = torch.ones(ROWS, num_in, dtype=dtype), torch.ones(num_out, num_in, dtype=dtype)
            for _ in range(5):
                torch.nn.functional.linear(x, weight)
            best = float("inf")
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                for _ in range(10):
                    torch.nn.functional.linear(x, weight)
                best = min(best, (time.perf_counter() - start) / 10)
            stack_seconds += count * best
        rates[name] = 2 * ROWS * shapes.num_weights / stack_seconds
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.threads)))


if __name__ == "__main__":
    main()
