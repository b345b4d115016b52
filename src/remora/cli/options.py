"""The options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

# A click command function takes whatever its options are called; nothing narrower can be said of it here.
Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
out_option = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Run directory [default: runs/<study>-<hash>]."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan and its cost, then stop.")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
model_option = click.option(
    "--model", required=True, help="Alias (minilm, smollm2), folder, GGUF file or Hub id[@revision]."
)
data_option = click.option("--data", required=True, help="File, folder, data set name or Hub id.")
base_option = click.option("--model", help="The base model, where it lies elsewhere than in training.")
labels_option = click.option(
    "--label", "labels", multiple=True, help="A class, in the order of the outputs; for adapters from peft. Repeat."
)
seeds_option = click.option("--seeds", type=click.IntRange(min=1), help="Final trials per method.")
only_option = click.option(
    "--only", multiple=True, metavar="STUDY", help="A study of the recipe, or several as lora-7b-*. May be repeated."
)
margin_option = click.option(
    "--margin", type=click.FloatRange(min=0), help="Points within which a cheaper method is good enough [default: 1]."
)
prefer_option = click.option(
    "--prefer",
    type=click.Choice(["quality", "size", "speed"]),
    help="What breaks ties in the recommendation [default: quality].",
)
budget_option = click.option(
    "--budget", metavar="TIME", help="Plan what fits in this time, such as 20m; says what it cut."
)


def _add_plugins(context: click.Context, parameter: click.Parameter, files: tuple[Path, ...]) -> None:
    from remora.methods.plugins import add_plugins

    if files:
        add_plugins(files)


plugin_option = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    expose_value=False,
    is_eager=True,
    callback=_add_plugins,
    help="A Python file that registers methods of your own; it is run. May be repeated.",
)


def together(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Apply several options at once, shown in the order given."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


protocol_options = together(seeds_option, margin_option, prefer_option, budget_option)
study_outputs = together(plugin_option, out_option, dry_run_option, json_option)
