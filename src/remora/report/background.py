"""The last sections of the report: protocol and data, how to use the adapter, how the study was made."""

import re

from remora.report.blocks import Block, Chip, ChipRow, ChipTable, Code, Heading, Pairs, Section, Table, TableRow, Text
from remora.report.training import halved
from remora.results.names import shown
from remora.results.schema import DataInfo, Lengths, ProtocolInfo, Setting
from remora.results.summary_schema import StudySummary
from remora.results.wording import ASKED, NONE, count, duration, listing, metric_name, number, plural, points

HASH = 16
MAX_LABELS = 20


def protocol(summary: StudySummary) -> Section:
    """Splits with hashes, seeds, budget, fixed defaults, the rule of selection."""
    blocks: list[Block] = [
        Pairs(items=_protocol_pairs(summary)),
        *_settings(summary),
        Heading(text="Data"),
        Pairs(items=_data_pairs(summary)),
        *_labels(summary.data),
    ]
    return Section(id="protocol", title="Protocol and data", blocks=blocks)


def _protocol_pairs(summary: StudySummary) -> list[tuple[str, str]]:
    p = summary.protocol
    metric = metric_name(summary.data.metric)
    pairs = [
        (
            "mode",
            "fair: equal tuning budget for every method"
            if p.mode == "fair"
            else "published: the recipe's own settings",
        ),
        ("tuning", _tuning(p, metric)),
        *_stopping(summary),
        (
            "final seeds",
            f"{listing([str(seed) for seed in p.seeds])}: each sets adapter and head init, data order and dropout",
        ),
        (
            "training",
            f"{plural(p.epochs, 'epoch')}, batch {p.batch_size}, {p.schedule} schedule, warm-up {100 * p.warmup:g} %",
        ),
        ("optimizer", f"AdamW, weight decay {p.weight_decay:g} on matrices only, gradient norm clipped at {p.clip:g}"),
        ("base dropout", "the base model's own rates in training" if p.base_dropout else "off"),
        ("checkpoint", "the last one" if p.select == "last" else "the best on validation, for all methods alike"),
        ("test set", "chooses no hyperparameter, epoch or checkpoint"),
        (
            "recommendation",
            f"the best by {p.prefer} among methods shown to lose less than {points(p.margin / 100)} points",
        ),
    ]
    found = summary.variance
    if found.seed_sd is not None:
        parts = [f"between seeds {points(found.seed_sd)} points (standard deviation, pooled)"]
        if found.item_sd is not None:
            parts.append(f"from the finite test set {points(found.item_sd)} points (standard error)")
        pairs.append(("chance", ", ".join(parts)))
    return pairs


def _tuning(p: ProtocolInfo, metric: str) -> str:
    if not p.tuning_trials:
        return "none: learning rates were given"
    seed = f" with seed {p.tuning_seed}" if p.tuning_seed is not None else ""
    return f"{plural(p.tuning_trials, 'trial')} per method{seed}, chosen by {metric} on validation"


def _stopping(summary: StudySummary) -> list[tuple[str, str]]:
    """The rule by which tuning trials were stopped and what it saved; nothing where there was none."""
    if summary.protocol.stop == "none":
        return []
    return [("stopping", halved(summary) or "successive halving, which stopped no tuning trial")]


def _settings(summary: StudySummary) -> list[Block]:
    """Hyperparameters besides the learning rate, row by row."""
    rows: list[ChipRow] = []
    for row in summary.rows:
        own = {name: value for name, value in row.hyperparameters.items() if name != "lr"}
        if own:
            chips = [Chip(name=shown(name, 40), value=_setting(value)) for name, value in own.items()]
            rows.append(ChipRow(head=shown(row.label, 40), title=shown(row.label, 400), chips=chips))
    return (
        [Heading(text="Settings"), ChipTable(heads=("method", "all but the learning rate"), rows=rows)] if rows else []
    )


def _setting(value: Setting) -> str:
    if isinstance(value, list):
        return ", ".join(shown(str(item), 40) for item in value) or NONE
    return NONE if value is None else shown(str(value).lower() if isinstance(value, bool) else str(value), 60)


def _data_pairs(summary: StudySummary) -> list[tuple[str, str]]:
    data = summary.data
    pairs = [
        ("data set", f"{shown(data.name)}, {data.task}, hash {data.hash[:HASH]}"),
        (
            "columns",
            f"text {listing([shown(c) for c in data.text_columns]) or NONE}, label {shown(data.label_column or NONE)}",
        ),
        ("metrics", listing([metric_name(metric) for metric in data.metrics]) + "; the first one decides"),
    ]
    if data.lengths:
        n = data.lengths
        text = f"mean {n.mean:.0f} tokens, median {n.p50:.0f}, 95 % below {n.p95:.0f}, longest {number(n.max)}; "
        windows = f"read in windows of up to {n.max_length}"
        pairs.append(("lengths", text + (windows if data.task == "coreference" else _cut(n))))
    for name, split in data.splits.items():
        source = shown(_without_folders(split.source), 200)
        pairs.append((name, f"{plural(split.rows, 'row')} from {source}; hash {split.hash[:HASH]}"))
    pairs += [(shown(note.kind.replace("-", " ")), shown(note.message, 300)) for note in data.notes]
    return pairs


def _without_folders(source: str) -> str:
    """Where rows come from, without the folders of this machine: a report is passed around."""
    return re.sub(r"(?<!\S)(?:/|[A-Za-z]:\\)\S*[/\\]", "", source)


def _labels(data: DataInfo) -> list[Block]:
    """How often each label occurs, by split; the most frequent ones when there are many."""
    splits = list(data.splits.values())
    totals = {label: sum(split.label_counts.get(label, 0) for split in splits) for label in data.label_names}
    unseen = {label for split in splits for label in split.label_counts} - set(totals)
    totals |= {label: sum(split.label_counts.get(label, 0) for split in splits) for label in sorted(unseen)}
    if not any(totals.values()):
        return []
    order = sorted(totals, key=lambda label: -totals[label])
    rows = [
        TableRow(
            head=shown(label, 40),
            title=shown(label, 400),
            cells=[number(split.label_counts.get(label, 0)) for split in splits],
        )
        for label in order[:MAX_LABELS]
    ]
    blocks: list[Block] = [Table(heads=["label", *data.splits], rows=rows)]
    if len(order) > MAX_LABELS:
        blocks.append(Text(text=f"The {MAX_LABELS} most frequent of {len(order)} labels.", quiet=True))
    return blocks


def _cut(lengths: Lengths) -> str:
    return f"{number(lengths.truncated)} cut at {lengths.max_length}"


def use(summary: StudySummary) -> Section:
    """How to load what was trained."""
    advice = summary.recommendation
    row = next((row for row in summary.rows if row.label == (advice.label or advice.best)), None)
    path = advice.adapter or (row.adapter if row else None)
    if path is None or row is None:
        found = next((row for row in summary.rows if row.adapter), None)
        if found is None:
            return Section(id="use", title="Use it", blocks=[Text(text="This study left no adapter to load.")])
        row, path = found, found.adapter or ""
    lead = (
        f"The adapter of {shown(row.label, 40)} with the best validation score of its seeds is in {path}, relative to "
    )
    lead += f"the run directory. It needs the base model {shown(summary.model.name)}."
    asked = {
        "multiple-choice": '("your question", ["one choice", "another choice"])',
        "coreference": '["One sentence of a document .", "The next one ."]',
    }
    text = asked.get(summary.data.task, '"your text"')
    python = f'import remora\n\nadapter = remora.load_adapter("{path}")\nfor prediction in adapter.predict([{text}]):\n'
    python += "    print(prediction.label, prediction.scores)"
    return Section(
        id="use",
        title="Use it",
        blocks=[
            Text(text=lead),
            Code(title="In Python", code=python, language="python"),
            Code(title="On the command line", code=f"remora predict {path} {ASKED[summary.data.task]}", language="sh"),
            Text(text="The folder's README.md holds the lines that load it with peft alone.", quiet=True),
        ],
    )


def made(summary: StudySummary) -> Section:
    """Model, machine, versions, trials, command."""
    model, trials, machine = summary.model, summary.trials, summary.machine
    revision = f", revision {shown(model.revision)}" if model.revision else ""
    stopped = f" (and {trials.stopped} stopped by halving)" if trials.stopped else ""
    total = f"{trials.tuning} tuning{stopped}, {trials.final} final, {trials.baseline} baseline"
    lost = [f"{n} {what}" for n, what in ((trials.diverged, "diverged"), (trials.failed, "failed")) if n]
    held = "" if model.quantization == "none" else ", its linear layers in 4-bit NormalFloat"
    pairs = [
        ("base model", f"{shown(model.name)}{revision}: {model.architecture}, {count(model.params)} parameters"),
        ("weights", f"SHA-256 {model.sha256}"),
        (
            "precision",
            f"base in {model.dtype}{held}, everything trained in float32; texts up to {model.max_length} tokens",
        ),
        ("trials", f"{total}{'; ' + listing(lost) if lost else ''}"),
    ]
    if machine is not None:
        extras = (machine.accelerator, "compiled kernels" if machine.kernels else None)
        device = "".join(f", {extra}" for extra in extras if extra)
        pairs.append(("machine", f"{machine.cpu}, {plural(machine.cores, 'core')}, {machine.memory_gb:.0f} GB{device}"))
    if summary.study_seconds is not None:
        pairs.append(("wall time", f"{duration(summary.study_seconds)} for the whole study"))
    pairs.append(
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(summary.versions.items())) or NONE)
    )
    if summary.command:
        pairs.append(("command", shown(summary.command, 400)))
    pairs.append(("study", f"{shown(summary.name)}, fingerprint {summary.fingerprint}"))
    return Section(id="made", title="How this was made", blocks=[Pairs(items=pairs)])
