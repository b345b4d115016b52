"""Commands that use a trained adapter, of Remora or of peft: predict, evaluate."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.cli import options
from remora.cli.console import print_json, print_jsonl, say

if TYPE_CHECKING:
    from remora.data.dataset import Dataset
    from remora.predict import Predictor

ADAPTER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("adapter", metavar="RUN_DIR|ADAPTER", type=ADAPTER)
@options.plugin_option
@click.option("--text", "texts", multiple=True, help="A text to label; of a document, a sentence. May be repeated.")
@click.option("--pair", "pairs", multiple=True, help="The second text of a pair; each choice of a question.")
@click.option("--file", "file", help="Texts in a table, in .txt with one per line, or - for standard input.")
@options.base_option
@options.labels_option
@click.option("--column", "columns", multiple=True, help="The text column [default: as trained]; twice for pairs.")
@click.option(
    "--conll",
    "column_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of coreference: write --file, a CoNLL column file, with the predicted brackets here as well.",
)
def predict(
    *,
    adapter: Path,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    file: str | None,
    model: str | None,
    labels: tuple[str, ...],
    columns: tuple[str, ...],
    column_file: Path | None,
) -> None:
    """Label texts; prints one JSON object per text with its label and scores.

    A run directory stands for the adapter it recommends, or its best where it recommends none.
    """
    from remora.cli.column_files import column_documents, write_columns
    from remora.cli.texts import texts_from_file, texts_from_options, texts_from_stream

    if bool(texts) == bool(file):
        raise click.UsageError("give texts with --text, or a file with --file (- is standard input)")
    loaded = open_adapter(find_adapter(adapter), model, labels)
    documents = None if column_file is None else column_documents(file, loaded.form)
    names = columns or loaded.text_columns
    if file is None:
        inputs = texts_from_options(texts, pairs, loaded.form)
    elif file == "-":
        with click.open_file("-", encoding="utf-8") as stream:
            inputs = texts_from_stream(stream, names, loaded.form)
    else:
        inputs = texts_from_file(Path(file), names, loaded.form)
    predictions = loaded.predict(inputs)
    if column_file is not None and documents is not None:
        write_columns(column_file, documents, [prediction.label for prediction in predictions])
    for text, prediction in zip(inputs, predictions, strict=True):
        shown = text if isinstance(text, str) else list(text)
        print_jsonl({"text": shown, "label": prediction.label, "scores": dict(prediction.scores)})


@click.command()
@click.argument("adapter", metavar="RUN_DIR|ADAPTER", type=ADAPTER)
@options.plugin_option
@options.data_option
@click.option("--split", type=click.Choice(["train", "validation", "test", "all"]), default="test", show_default=True)
@options.base_option
@options.labels_option
@options.json_option
@options.overrides_argument
def evaluate(
    *,
    adapter: Path,
    data: str,
    split: str,
    model: str | None,
    labels: tuple[str, ...],
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Score an adapter on labelled data.

    A single file is split as in training and only the chosen part is scored; for a file that is a test set as a
    whole say --split all. Settings of the data are given as KEY=VALUE, such as data.label=category.
    """
    from remora.cli.build import data_settings
    from remora.data.dataset import load_dataset

    folder = find_adapter(adapter)
    dataset = load_dataset(data_settings(data, overrides))
    if split == "all":
        dataset = with_all(dataset)
    metrics = open_adapter(folder, model, labels).evaluate(dataset, split)
    rows = len(dataset.splits[split])
    if as_json:
        print_json({"adapter": str(folder), "data": dataset.name, "split": split, "rows": rows, "metrics": metrics})
        return
    say(f"{dataset.name}, {split}: {rows} rows")
    for name, value in metrics.items():
        click.echo(f"{name:<20} {100 * value:6.2f}")


def open_adapter(folder: Path, model: str | None, labels: Sequence[str]) -> "Predictor":
    """Load an adapter; says what one must know of it that comes from elsewhere.

    Args:
        folder: of the adapter.
        model: ``--model``.
        labels: ``--label``.
    """
    from remora.predict import load_adapter

    loaded = load_adapter(folder, model, labels=labels)
    if loaded.record.num_texts is None and loaded.record.remark:
        say(f"note: {loaded.record.remark}")
    return loaded


def with_all(dataset: "Dataset") -> "Dataset":
    """The data set with one more split, ``all``: the rows of the others one after the other."""
    parts = list(dataset.splits.values())
    whole = replace(
        parts[0],
        name="all",
        texts=tuple(text for part in parts for text in part.texts),
        labels=tuple(label for part in parts for label in part.labels),
    )
    return replace(dataset, splits={**dataset.splits, "all": whole})


def find_adapter(folder: Path) -> Path:
    """The adapter folder that a path stands for.

    Args:
        folder: an adapter, or a run directory.

    Returns:
        The folder itself, or the adapter of the recommended row, or else of the best row that has one.

    Raises:
        AdapterError: neither, or a run directory without any adapter.
    """
    from remora.errors import AdapterError
    from remora.results.store import STUDY_FILE, read_run
    from remora.results.summary import summary_of

    if (folder / "adapter_config.json").is_file() or (folder / "remora.json").is_file():
        return folder
    if not (folder / STUDY_FILE).is_file():
        raise AdapterError(f"{folder} is neither an adapter nor a run directory", "give a folder with remora.json")
    summary = summary_of(read_run(folder))
    chosen = [row for row in summary.rows if row.adapter and row.label == summary.recommendation.label]
    best = [row for row in summary.rows if row.adapter and row.mean is not None]
    if not chosen and not best:
        raise AdapterError(f"{folder} holds no finished adapter", f"finish the study: remora resume {folder}")
    row = chosen[0] if chosen else max(best, key=lambda row: row.mean or 0.0)
    assert row.adapter is not None, "only rows with an adapter were kept"
    say(
        f"using {row.label}, {'recommended' if chosen else 'best on average; the study recommends none'}: {row.adapter}"
    )
    return folder / row.adapter
