"""Tables and the picture of docs/benchmarks.md, made from the result files alone."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATIOS = {
    "ratio_strongest": "strongest peer",
    "ratio_default": "default peer",
    "ratio_published": "as published",
}

INTRO = """# Benchmarks

Made by `python -m bench.compare_peers`. "Peer" is peft + transformers.Trainer. Both sides are subprocesses with the
same base model, rows, batch size 16, steps and cores; they take turns, figures are medians over the turns
and ratios are medians of the ratios turn by turn. The clock runs inside training after the first steps: start-up,
loading, tokenization and evaluation are outside it on both sides. The peer gets its faster attention and data loader
(found by a short probe), tokenized rows, and neither logs nor saves.

* **strongest peer**: dynamic padding, the best of float32 or bf16 autocast, and, in sweeps, of one process or
  one-thread processes side by side.
* **default peer**: one process with all threads, dynamic padding, float32.
* **as published**: one process, float32, every text padded to the maximum length.
* **bound**: examples/s if nothing but the products of the frozen stack (4N FLOPs per real token) took time, at the
  rate measured for such products alone on all cores in the better precision. A training step cannot reach it; it says
  how much is left.
"""


METHOD_STEPS = """## Steps of the methods

Made by `python -m bench.method_steps`: one trial alone on one thread, sst2, batch 16, base dropout on, methods in turn,
medians. Full fine-tuning also computes the gradients of all weights; head only never runs the base.

"""


GPU = """## GPU

Made by `python -m bench.gpu`: models of real sizes with random weights, sentences of one length, LoRA of rank 8 on
query and value, both sides in bf16 on the same device. The peer trains one trial at a time with torch's fused attention
and fused AdamW, its base in the faster of the types tried. Share of the peak: 4 N FLOPs per token, N the weights of the
linear layers, over the device's dense bf16 rate. Memory is the most that tensors took.

"""

NO_GPU = "Not measured: no GPU was at hand when this page was made.\n"


def method_table(seconds: dict[str, list[float]]) -> str:
    """Milliseconds of a step of each method, and how many times a LoRA step; medians over the repeats."""
    rows: list[list[str]] = []
    for method, each in seconds.items():
        ratios = [mine / lora for mine, lora in zip(each, seconds["lora"], strict=True)]
        rows.append([method, f"{1000 * statistics.median(each):.1f}", f"{statistics.median(ratios):.2f}"])
    return table(["method", "step, ms", "times LoRA"], rows)


SCALING = """## Growth with the work

Made by `python -m bench.scaling`: four LoRA trials as lanes of one single-threaded worker, sst2, batch 16, sizes in
turn, medians; then many trials as lanes of one pack.

"""


def scaling_tables(found: dict[str, Any]) -> str:
    """Seconds by number of examples, and what 64 lanes took."""
    middle = [statistics.median(each) for each in found["seconds"]]
    per_example = [seconds / examples for seconds, examples in zip(middle, found["examples"], strict=True)]
    rows = [
        [str(examples), f"{seconds:.2f}", f"{1000 * each:.2f}", f"{each / per_example[0]:.3f}"]
        for examples, seconds, each in zip(found["examples"], middle, per_example, strict=True)
    ]
    growth = table(["examples", "seconds", "ms an example", "times the smallest size's"], rows)
    return (
        f"{growth}\n{found['many_lanes']} lanes in one pack: {found['many_examples']} examples in "
        f"{found['many_seconds']:.1f} s, {found['many_examples'] / found['many_seconds']:.0f} examples/s on one core, "
        f"{found['many_peak_bytes'] / 2**20:.0f} MiB resident.\n"
    )


EVALUATION = """## Evaluating lanes

Made by `python -m bench.evaluation`: the adapters of four LoRA trials read the same rows one by one, and all four in
each pass; passes of 4,096 tokens in both, one thread, in turn, medians. Remora evaluates one by one: together nothing
is shared, and an adapter's predictions would depend on its neighbours in their last bits.

"""


def evaluation_table(found: Sequence[dict[str, Any]]) -> str:
    """Rows a second both ways, and how many times longer one by one takes."""
    rows: list[list[str]] = []
    for each in found:
        ratios = [apart / joint for apart, joint in zip(each["apart"], each["together"], strict=True)]
        read = each["lanes"] * each["rows"]
        speeds = [f"{read / statistics.median(each[how]):.0f}" for how in ("apart", "together")]
        rows.append([each["data"], str(each["rows"]), *speeds, f"{statistics.median(ratios):.2f}"])
    return table(["data", "rows", "one by one, rows/s", "together, rows/s", "time one by one / together"], rows)


PROFILE = """## Where a step's time goes

Made by `python -m bench.profile_step --keep`: torch's profiler over the steps of one pack in one single-threaded
worker, every operation's own time.

"""


def profile_table(found: dict[str, dict[str, Any]]) -> str:
    """Shares of a step by kind of operation, a column for each case."""
    kinds = list(next(iter(found.values()))["shares"])
    rows = [[kind, *(f"{100 * case['shares'][kind]:.1f} %" for case in found.values())] for kind in kinds]
    head = ["", *(f"{name}, {case['lanes']} lanes" for name, case in found.items())]
    return table(head, rows)


def write_tables(results: Path, docs: Path, names: Sequence[str]) -> str:
    """Write docs/benchmarks.md and docs/benchmarks.svg from the result files that exist.

    Args:
        results: folder of ``CASE.json`` files.
        docs: where the page and the picture go.
        names: cases in the order of the page.

    Returns:
        The page's text.
    """
    paths = [results / f"{name}.json" for name in names]
    trees = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    docs.mkdir(exist_ok=True)
    parts = [INTRO]
    if trees:
        parts += [machine_text(trees[0]["machine"]), summary(trees), "![Examples per second](benchmarks.svg)\n"]
        draw(trees, docs / "benchmarks.svg")
    parts += [case_table(tree) for tree in trees]
    steps = results / "method_steps.json"
    if steps.is_file():
        seconds = json.loads(steps.read_text(encoding="utf-8"))["seconds"]
        parts.append(METHOD_STEPS + method_table(seconds))
    scaling = results / "scaling.json"
    if scaling.is_file():
        parts.append(SCALING + scaling_tables(json.loads(scaling.read_text(encoding="utf-8"))))
    evaluation = results / "evaluation.json"
    if evaluation.is_file():
        parts.append(EVALUATION + evaluation_table(json.loads(evaluation.read_text(encoding="utf-8"))))
    profile = results / "profile.json"
    if profile.is_file():
        parts.append(PROFILE + profile_table(json.loads(profile.read_text(encoding="utf-8"))))
    on_gpu = results / "gpu.json"
    parts.append(gpu_section(json.loads(on_gpu.read_text(encoding="utf-8")) if on_gpu.is_file() else None))
    text = "\n".join(parts)
    (docs / "benchmarks.md").write_text(text, encoding="utf-8")
    return text


def gpu_section(tree: dict[str, Any] | None) -> str:
    """What was measured on a GPU, or that nothing was."""
    if tree is None:
        return GPU + NO_GPU
    machine: dict[str, Any] = tree["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    parts = [GPU + f"Device: {machine['device']}, {machine['memory_gib']} GiB, CUDA {machine['cuda']}; {versions}.\n"]
    head = ["side", "examples/s", "tokens/s", "share of peak", "peak memory", "gradient norm", "times strongest peer"]
    for name, model in tree["models"].items():
        text = (
            f"{name}: batches of {model['batch_size']} sentences of {model['length']} tokens, {model['steps']} timed "
            f"steps, base dropout {'on' if model['base_dropout'] else 'off'}. "
            f"Attention in Remora: {model['attention']}.\n"
        )
        rows = [
            _gpu_row(f"Remora, {count} lane(s)", row, f"{model['ratios'][count]:.1f}")
            for count, row in model["remora"].items()
        ]
        rows += [_gpu_row(f"peer, base in {dtype}", row, "") for dtype, row in model["peer"].items()]
        parts += [text, table(head, rows)]
    return "\n".join(parts)


def _gpu_row(side: str, row: dict[str, Any], ratio: str) -> list[str]:
    share, memory = row["share_of_peak"], row["peak_bytes"]
    return [
        side,
        f"{row['examples_per_second']:.0f} ({min(row['turns']):.0f} to {max(row['turns']):.0f})",
        f"{row['tokens_per_second']:.0f}",
        "-" if share is None else f"{100 * share:.1f} %",
        "-" if memory is None else f"{memory / 2**30:.1f} GiB",
        f"{row['grad_norm_min']:.2f} to {row['grad_norm_max']:.2f}",
        ratio,
    ]


def machine_text(machine: dict[str, Any]) -> str:
    extensions = ", ".join(machine["extensions"]) or "no known extension"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    return (
        f"Machine: {machine['cores']} cores, {machine['architecture']} with {extensions}, {machine['memory_gib']} GiB "
        f"memory, {machine['system']}; Python {machine['python']}, {versions}.\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary(trees: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            tree["case"],
            tree["model"],
            tree["data"],
            str(tree["trials"]),
            f"{tree['arrangements']['remora']['examples_per_second']:.0f}",
            *(f"{tree[key]:.2f}" for key in RATIOS),
            f"{100 * tree['fraction_of_bound']['remora']:.0f} %",
        ]
        for tree in trees
    ]
    head = [
        "case",
        "base",
        "data",
        "trials",
        "Remora examples/s",
        *(f"times {name}" for name in RATIOS.values()),
        "of the bound",
    ]
    return table(head, rows)


def case_table(tree: dict[str, Any]) -> str:
    rates, found = tree["product_rate_per_core"], tree["quality"]
    text = (
        f"{tree['what'][0].upper()}{tree['what'][1:]}, {tree['model']}, {tree['data']}, batch 16, "
        f"{tree['examples_per_trial']} timed examples per trial, {tree['cores']} cores, base dropout "
        f"{'on' if tree['base_dropout'] else 'off'}. Products alone: {rates['fp32'] / 1e9:.0f} GFLOP/s per core in "
        f"float32, {rates['bf16'] / 1e9:.0f} in bf16; bound {tree['bound_examples_per_second']:.0f} examples/s. "
        f"Strongest peer: {tree['strongest_peer']}. Accuracy after these steps on {tree['test_rows']} test rows: "
        f"Remora {100 * found['remora']:.1f}, peer {100 * found['peer']:.1f} (95 % over items "
        f"{100 * found['low']:.1f} to {100 * found['high']:.1f})."
    )
    rows: list[list[str]] = []
    for name, arrangement in tree["arrangements"].items():
        turns: list[dict[str, Any]] = arrangement["turns"]
        middle = {
            key: statistics.median(t[key] for t in turns)
            for key, value in turns[0].items()
            if isinstance(value, (int, float))
        }
        rates = [t["examples_per_second"] for t in turns]
        rows.append(
            [
                "Remora" if name == "remora" else name,
                f"{arrangement['examples_per_second']:.1f} ({min(rates):.1f} to {max(rates):.1f})",
                f"{middle['tokens_per_second']:.0f}",
                f"{middle['tokens_computed_per_second']:.0f}",
                f"{middle['peak_rss_bytes'] / 2**20:.0f} MiB",
                f"{middle['grad_norm_min']:.2f} to {middle['grad_norm_max']:.2f}",
                f"{middle['train_loss']:.4f}",
                f"{middle['load_before']:.1f}",
                f"{100 * tree['fraction_of_bound'][name]:.1f} %",
            ]
        )
    head = [
        "arrangement",
        "examples/s (min to max)",
        "tokens/s",
        "with padding",
        "peak memory",
        "gradient norm",
        "mean loss",
        "load before",
        "of the bound",
    ]
    return f"## {tree['case']}\n\n{text}\n\n{table(head, rows)}"


def draw(trees: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of examples/s, one panel per case, the same bytes from the same results."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "remora", "font.size": 9}):
        heights = [len(tree["arrangements"]) for tree in trees]
        figure, panels = plt.subplots(
            len(trees), 1, figsize=(7, 0.32 * sum(heights) + 0.8 * len(trees)), height_ratios=heights, squeeze=False
        )
        for panel, tree in zip(panels[:, 0], trees, strict=True):
            names = list(tree["arrangements"])
            rates = [tree["arrangements"][name]["examples_per_second"] for name in names]
            labels = ["Remora" if name == "remora" else name for name in names]
            colors = ["#1f6f8b" if name == "remora" else "#b0b7bd" for name in names]
            bars = panel.barh(labels, rates, color=colors)
            panel.bar_label(bars, fmt="%.0f", padding=3)
            panel.invert_yaxis()
            panel.set_title(f"{tree['case']}: examples per second", loc="left")
            panel.spines[["top", "right"]].set_visible(False)
            panel.margins(x=0.1)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
