"""Remora against peft + Trainer on a GPU: ``python -m bench.gpu [--model roberta-base-size] [--lanes 1,8,32,64]``

Models have real sizes and random weights. The peer trains one trial at a time, so its rate is the same for any number
of trials. Writes bench/results/gpu.json and the section of docs/benchmarks.md made from it. ``--smoke`` runs the same
code on a CPU with a tiny model and writes nothing.

Model FLOPs: 4 N per token (forward, and backward through a frozen stack), N the weights of the linear layers; attention
scores are left out. The share of the device's peak needs that peak: known for some devices, else ``--peak-tflops``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.cases import CASES
from bench.gpu_models import MODELS, SizedModel, write_model
from bench.gpu_sides import Load, Timing, peer_side, remora_side
from bench.launch import ROOT
from bench.tables import gpu_section, write_tables
from remora.engine.attention_choice import choose, flash_here

RESULTS = ROOT / "bench" / "results"
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16, from the makers' data sheets; longer names first."""
SMOKE = Load(batch_size=4, length=12, warmup=2, steps=4)


def linear_weights(model: SizedModel) -> int:
    """Weights of the linear layers of a model's stack."""
    from transformers import AutoConfig

    config: Any = AutoConfig.for_model(model.model_type, **model.settings)
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    thick = 3 if model.model_type == "llama" else 2
    return int(config.num_hidden_layers) * (4 * hidden * hidden + thick * hidden * inner)


def peak_flops(device: torch.device, given: float | None) -> float | None:
    """The device's peak in FLOP/s, if it is known."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * value for part, value in PEAK_TFLOPS.items() if part in name), None)


def figures(timings: list[Timing], load: Load, model: SizedModel, peak: float | None) -> dict[str, Any]:
    """Rates (medians over the turns), share of the peak, memory and gradient norms."""
    rates = [timing.examples / timing.seconds for timing in timings]
    tokens = statistics.median(rates) * load.length
    memory = [timing.peak_bytes for timing in timings if timing.peak_bytes is not None]
    return {
        "examples_per_second": statistics.median(rates),
        "turns": rates,
        "tokens_per_second": tokens,
        "share_of_peak": None if peak is None else 4 * linear_weights(model) * tokens / peak,
        "peak_bytes": max(memory) if memory else None,
        "grad_norm_min": min(timing.grad_norm_min for timing in timings),
        "grad_norm_max": max(timing.grad_norm_max for timing in timings),
    }


def attention_used(model: SizedModel, load: Load, device: torch.device, base_dropout: bool) -> str:
    """How Remora computes attention in these passes, and why."""
    from transformers import AutoConfig

    config: Any = AutoConfig.for_model(model.model_type, **model.settings)
    rate = config.attention_dropout if model.model_type == "llama" else config.attention_probs_dropout_prob
    features = int(config.hidden_size) // int(config.num_attention_heads)
    choice = choose(
        device_type=device.type,
        dtype=torch.bfloat16,
        features=(features, features),
        longest=load.length,
        softcap=False,
        dropping=base_dropout and rate > 0,
        native=device.type == "cpu",
        flash=flash_here(device),
    )
    return f"{choice.computation}: {choice.reason}"


def measure(
    name: str, lanes: list[int], load: Load, device: torch.device, repeats: int, base_dropout: bool, peak: float | None
) -> dict[str, Any]:
    """All turns of one model as a JSON tree; sides take turns."""
    model = MODELS[name]
    ours: dict[int, list[Timing]] = {count: [] for count in lanes}
    theirs: dict[str, list[Timing]] = {dtype: [] for dtype in model.peer_types}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        os.environ["REMORA_CACHE"] = str(Path(scratch) / "cache")  # the weights are random: nobody wants them kept
        write_model(model, folder)
        for turn in range(repeats):
            for count in lanes:
                ours[count].append(remora_side(folder, model, load, count, device, base_dropout))
                say(f"{name}, turn {turn + 1}: Remora, {count} lanes: {ours[count][-1]}")
            for dtype in model.peer_types:
                theirs[dtype].append(peer_side(folder, model, load, dtype, device, base_dropout))
                say(f"{name}, turn {turn + 1}: peer, base in {dtype}: {theirs[dtype][-1]}")
    peer = {dtype: figures(timings, load, model, peak) for dtype, timings in theirs.items()}
    best = max(peer, key=lambda dtype: peer[dtype]["examples_per_second"])
    remora = {str(count): figures(timings, load, model, peak) for count, timings in ours.items()}
    return {
        "batch_size": load.batch_size,
        "length": load.length,
        "steps": load.steps,
        "base_dropout": base_dropout,
        "attention": attention_used(model, load, device, base_dropout),
        "remora": remora,
        "peer": peer,
        "strongest_peer": best,
        "ratios": {
            count: row["examples_per_second"] / peer[best]["examples_per_second"] for count, row in remora.items()
        },
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Device and versions."""
    import peft
    import transformers

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30)
        if device.type == "cuda"
        else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [name for name in MODELS if name != "smoke"]
    parser.add_argument("--model", action="append", choices=sizes, help="may be repeated; default: all")
    parser.add_argument("--lanes", help="such as 1,8,32,64; default 1,8,32,64, and 1,8 for llama-7b-size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-base-dropout", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the device, dense bfloat16")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU, to see that it runs")
    options = parser.parse_args(given)
    if not options.smoke and not torch.cuda.is_available():
        say("no CUDA device here; --smoke runs the same code on the CPU")
        return 4
    device = torch.device("cpu") if options.smoke else torch.device("cuda", torch.cuda.current_device())
    peak = peak_flops(device, options.peak_tflops)
    tree: dict[str, Any] = {"machine": machine(device), "models": {}}
    for name in ["smoke"] if options.smoke else options.model or sizes:
        usual = "1,2" if name == "smoke" else "1,8" if name == "llama-7b-size" else "1,8,32,64"
        lanes = [int(count) for count in (options.lanes or usual).split(",")]
        load, repeats = (SMOKE, 1) if options.smoke else (Load(), options.repeats)
        tree["models"][name] = measure(name, lanes, load, device, repeats, not options.no_base_dropout, peak)
    if not options.smoke:
        (RESULTS / "gpu.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        write_tables(RESULTS, ROOT / "docs", [case.name for case in CASES])
    print(json.dumps(tree) if options.json else gpu_section(tree))
    return 0


if __name__ == "__main__":
    sys.exit(main())
