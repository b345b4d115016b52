"""The command annotate: labels texts with a language model or an adapter, then trains an encoder on the labels."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.cli import options
from remora.cli.console import print_json, say
from remora.cli.signals import Terminated

if TYPE_CHECKING:
    from remora.config.schema import StudyConfig
    from remora.data.unlabelled import Unlabelled
    from remora.predict import Predictor
    from remora.results.labelled import LabelledFormat
    from remora.study.progress import Progress

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
_TRAIN = "train."


@click.command()
@click.argument("texts", metavar="FILE", type=FILE)
@options.plugin_option
@click.option("--model", help="The causal language model that labels, such as smollm2; or the adapter's base.")
@click.option("--adapter", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Label with this one.")
@click.option("--out", type=FOLDER, required=True, help="Folder of answers, labelled file and report.")
@click.option(
    "--class", "classes", multiple=True, help="A class to choose from. Repeat. [default: those that are seen]"
)
@click.option("--column", "columns", multiple=True, help="The text column [default: the usual names]; twice for pairs.")
@click.option("--truth", help="The column of true labels, here, in --examples and in --test. They are never shown.")
@click.option(
    "--examples", type=FILE, help="Solved examples, column label or --truth; prompt.shots=K of them are shown."
)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--train", "encoder", help="Train this encoder on the labels, such as minilm.")
@click.option("--test", type=FILE, help="Rows with true labels (column label or --truth) that judge the encoder.")
@click.option("--methods", default="full", show_default=True, help="How the encoder is trained; see remora compare.")
@click.option("--sizes", help="Numbers of training texts, such as 100,300 [default: a quarter, half and all].")
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.0, help="Learn from labels as sure as this.")
@options.json_option
@options.overrides_argument
def annotate(
    *,
    texts: Path,
    model: str | None,
    adapter: Path | None,
    out: Path,
    classes: tuple[str, ...],
    columns: tuple[str, ...],
    truth: str | None,
    examples: Path | None,
    form: "LabelledFormat",
    encoder: str | None,
    test: Path | None,
    methods: str,
    sizes: str | None,
    min_confidence: float,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Label texts with a causal language model, asked zero-shot or few-shot, or with an adapter.

    Keeps the confidence of every label and says how far labels agree with true ones. Repeat the command to go on where
    it was stopped: texts that have an answer are not asked again. With --train an encoder then learns from the labels,
    and from the true ones at the same sizes where they are known.

    Settings are KEY=VALUE: model.*, prompt.* for the labeller, train.KEY=VALUE (such as train.protocol.epochs=2) for
    the encoder's studies.
    """
    from remora.cli.progress import choose_progress
    from remora.data.unlabelled import read_unlabelled
    from remora.errors import ConfigError
    from remora.report.annotation import write_annotation_report
    from remora.study.annotate import annotate as ask
    from remora.study.annotate import write_annotation

    if encoder is not None and test is None:
        raise ConfigError("--train needs rows with true labels to judge what was learnt", "give --test FILE")
    rows = read_unlabelled(texts, columns, truth)
    column = truth or "label"
    solved = read_unlabelled(examples, rows.columns, column) if examples is not None else None
    judge = read_unlabelled(test, rows.columns, column) if test is not None else None
    own = [setting for setting in overrides if not setting.startswith(_TRAIN)]
    chosen = _sizes(sizes)
    predictor = _labeller(rows, model, adapter, out, classes, solved, own)
    _refuse_strangers([each for each in (rows, judge) if each is not None], predictor.record.label_names)
    progress = choose_progress(silent=as_json)
    try:
        answers = ask(predictor, rows.texts, out, progress)
        found = write_annotation(
            out, rows, predictor, answers, form=form, min_confidence=min_confidence, command=_command()
        )
        write_annotation_report(out)
        code = 0
        if encoder is not None and judge is not None:
            train = [setting.removeprefix(_TRAIN) for setting in overrides if setting.startswith(_TRAIN)]
            kept = [answer.confidence >= min_confidence for answer in answers]
            labels = [answer.label for answer, keep in zip(answers, kept, strict=True) if keep]
            code = _learn(out, rows.only(kept), labels, judge, encoder, methods, chosen, train, progress)
            write_annotation_report(out)
    except (KeyboardInterrupt, Terminated):
        say("stopped. What was answered and trained is kept; to go on, repeat the command")
        raise
    finally:
        progress.finished()
    if as_json:
        print_json(
            {"out": str(out), "report": str(out / "report.html"), **found.model_dump(mode="json", by_alias=True)}
        )
        return code
    agreed = found.agreement
    if agreed is not None:
        click.echo(f"agreement with true labels: accuracy {100 * agreed.accuracy:.1f}, kappa {agreed.kappa:.3f}")
    click.echo(f"labelled: {out / found.labelled}\nreport: {out / 'report.html'}")
    return code


def _labeller(
    rows: "Unlabelled",
    model: str | None,
    adapter: Path | None,
    out: Path,
    classes: Sequence[str],
    solved: "Unlabelled | None",
    overrides: Sequence[str],
) -> "Predictor":
    from remora.cli.use import find_adapter, open_adapter
    from remora.errors import ConfigError
    from remora.models.load import load_base
    from remora.study.annotate import known_asked, labeller
    from remora.study.machine import choose_dtype

    if adapter is not None:
        if classes or solved is not None or overrides:
            what = "its own classes, prompt and settings"
            raise ConfigError(f"an adapter has {what}", "leave --class, --examples and settings out")
        return open_adapter(find_adapter(adapter), model, ())
    if model is None:
        raise ConfigError("who is to label?", "give --model with a causal language model, or --adapter")
    known = known_asked(out)
    config = _settings(model, rows, overrides)
    if known is not None and config.model.dtype == "auto":  # measured anew, another type may seem the faster one
        dtype = {"model": config.model.model_copy(update={"dtype": known.dtype})}
        config = config.model_copy(update=dtype)
    seen = {label for each in (rows, solved) if each is not None for label in each.truths or ()}
    names = tuple(dict.fromkeys(classes)) or tuple(sorted(seen))
    if len(names) < 2:
        raise ConfigError("there are no classes to choose from", "give at least two: --class negative --class positive")
    base = load_base(
        config.model.id,
        revision=config.model.revision,
        dtype=choose_dtype(config.model, config.engine),
        quantization=config.model.quantization,
        language_head=True,
    )
    if solved is not None:
        _refuse_strangers([solved], names)
    return labeller(
        base,
        config.prompt,
        columns=rows.columns,
        classes=names,
        max_length=min(config.model.max_length or 256, base.max_positions),
        solved=solved,
    )


def _settings(model: str, rows: "Unlabelled", overrides: Sequence[str]) -> "StudyConfig":
    from remora.cli.build import model_settings
    from remora.config.load import apply_overrides, build_study
    from remora.errors import ConfigError

    strangers = [each for each in overrides if not each.startswith(("model.", "prompt."))]
    if strangers:
        raise ConfigError(
            f"{strangers[0]!r} is no setting of who labels",
            f"there are model.* and prompt.*; settings of the encoder's studies begin with {_TRAIN}",
        )
    tree = {
        "model": model_settings(model),
        "data": {"path": rows.source, "text": list(rows.columns), "task": "prompt-classification"},
    }
    return build_study(apply_overrides(tree, overrides), "command line")


def _refuse_strangers(files: Sequence["Unlabelled"], names: Sequence[str]) -> None:
    """True labels that are none of the classes are errors, told before anything is asked."""
    from remora.errors import DataError

    for each in files:
        for place, label in zip(each.places, each.truths or (), strict=False):
            if label not in names:
                raise DataError(
                    f"{place}: the true label {label!r:.60} is none of the classes", f"they are {', '.join(names)}"
                )


def _command() -> str:
    return shlex.join(["remora", *sys.argv[1:]]) if sys.argv and sys.argv[0].endswith("remora") else ""


def _sizes(text: str | None) -> list[int]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--sizes: {text!r} is no list of numbers; write it like 100,300")
    return [int(part) for part in parts]


def _learn(
    out: Path,
    rows: "Unlabelled",
    labels: Sequence[str],
    judge: "Unlabelled",
    encoder: str,
    methods: str,
    sizes: Sequence[int],
    overrides: Sequence[str],
    progress: "Progress",
) -> int:
    """Train the encoder at all sizes. Returns the exit code."""
    from remora.cli.build import read_methods
    from remora.cli.recipes import read_recipe
    from remora.results.annotation_schema import ANNOTATION_FILE, Annotation
    from remora.results.store import read_record, write_record
    from remora.study.learned import STUDIES, write_learning_recipe
    from remora.study.recipe import run_recipe

    path = write_learning_recipe(
        out, model=encoder, methods=read_methods(methods), sizes=sizes, rows=rows, labels=labels, test=judge
    )
    recipe, configs = read_recipe(path, overrides)
    code = run_recipe(recipe, configs, {}, out / STUDIES, progress=progress).exit_code
    annotation = read_record(out / ANNOTATION_FILE, Annotation)
    write_record(out / ANNOTATION_FILE, annotation.model_copy(update={"training": STUDIES}))
    return code
