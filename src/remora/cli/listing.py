"""Commands that list what there is: methods, models, data sets, recipes."""

from collections.abc import Mapping, Sequence

import click

from remora.cli import options
from remora.cli.console import format_table, print_json

Entry = Mapping[str, object]


@click.group("list")
def list_group() -> None:
    """List methods, models, datasets or recipes."""


@list_group.command()
@click.option("--model", help="Count each method's trained parameters on this base, with its default settings.")
@options.plugin_option
@options.json_option
def methods(*, model: str | None, as_json: bool) -> None:
    """The fine-tuning methods, with what each can do."""
    from remora.methods.registry import list_methods

    entries: list[Entry] = [
        {
            "name": method.name,
            "label": method.label,
            "family": method.family,
            "shares_base": method.shares_base,
            "mergeable": method.mergeable,
            "peft_type": method.peft_type,
            "learning_rates": [method.lr_range.low, method.lr_range.high],
            "settings": list(method.Config.model_fields),
            "summary": method.summary(),
            "citation": method.citation,
        }
        for method in list_methods()
    ]
    columns = ["name", "family", "peft_type", "mergeable", "settings", "citation"]
    if model is not None:
        entries = [{**entry, **counts} for entry, counts in zip(entries, _counted(model), strict=True)]
        columns.insert(2, "adapter_params")
    show(entries, columns, as_json=as_json)


def _counted(model: str) -> list[Entry]:
    """Trained parameters of every method on a base, head not counted; None, with the reason, where it cannot attach."""
    from remora.errors import ConfigError
    from remora.methods.base import num_params
    from remora.methods.registry import get_method, list_methods
    from remora.models.load import load_base

    base = load_base(model)
    counts: list[Entry] = []
    for method in list_methods():
        try:
            counts.append({"adapter_params": num_params(get_method(method.name, {}), base), "reason": None})
        except ConfigError as error:
            counts.append({"adapter_params": None, "reason": error.message})
    return counts


@list_group.command()
@options.json_option
def models(*, as_json: bool) -> None:
    """The models that have a short name; folders, GGUF files and Hub ids work as well."""
    import importlib.util

    from remora.models.files import ALIASES

    entries = [
        {
            "name": name,
            "package": alias.distribution,
            "installed": importlib.util.find_spec(alias.package) is not None,
            "install": alias.install,
        }
        for name, alias in ALIASES.items()
    ]
    show(entries, ("name", "package", "installed", "install"), as_json=as_json)


@list_group.command()
@options.json_option
def datasets(*, as_json: bool) -> None:
    """The data sets that have a card; files, folders and Hub ids work as well."""
    from remora.data.cards import card_names, embedded_folder, load_card

    entries: list[Entry] = []
    for name in card_names():
        card = load_card(name)
        assert card is not None, "a listed card exists"
        entries.append(
            {
                "name": name,
                "title": card.title,
                "task": card.task,
                "text": list(card.text),
                "label": card.label,
                "metric": card.metric,
                "shipped": embedded_folder(name) is not None,
                "hub": card.hub.id if card.hub else None,
                "licence": card.licence,
                "citation": card.citation,
            }
        )
    show(entries, ("name", "task", "metric", "shipped", "title"), as_json=as_json)


@list_group.command()
@options.json_option
def recipes(*, as_json: bool) -> None:
    """The shipped study files, for `remora run recipe:NAME`."""
    from remora.cli.build import RECIPES
    from remora.config.load import build_study
    from remora.study.recipe_file import studies_of

    entries: list[Entry] = []
    for path in sorted(RECIPES.glob("*.yaml")):
        configs = [build_study(tree, str(path)) for tree in studies_of(path).values()]
        # The first line of a recipe is a comment that says what it is.
        summary = path.read_text("utf-8").splitlines()[0].removeprefix("#").strip()
        models, data = (
            list(dict.fromkeys(names)) for names in ([c.model.id for c in configs], [c.data.path for c in configs])
        )
        entries.append({"name": path.stem, "summary": summary, "studies": len(configs), "model": models, "data": data})
    show(entries, ("name", "studies", "model", "data", "summary"), as_json=as_json)


def show(entries: Sequence[Entry], columns: Sequence[str], *, as_json: bool) -> None:
    """Print entries as a JSON array, or as a table of some of their columns."""
    if as_json:
        print_json(entries)
        return
    click.echo(format_table(columns, [[cell(entry[column]) for column in columns] for entry in entries]))


def cell(value: object) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return "-" if value is None else str(value)
