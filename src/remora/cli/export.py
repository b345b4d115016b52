"""Command that writes an adapter for other programs."""

from pathlib import Path
from typing import Literal

import click

from remora.cli import options
from remora.cli.console import print_json, say
from remora.cli.use import ADAPTER, find_adapter, open_adapter


@click.command()
@click.argument("adapter", metavar="RUN_DIR|ADAPTER", type=ADAPTER)
@options.plugin_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make; never an existing one.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["peft", "lora", "merged"]),
    help="A PEFT adapter, the same as plain LoRA, or an ordinary model with the adapter merged in [default: peft].",
)
@click.option("--profile", type=click.Choice(["vllm"]), help="Write only what this server accepts, or say why not.")
@options.base_option
@options.labels_option
@options.json_option
def export(
    *,
    adapter: Path,
    out: Path,
    form: Literal["peft", "lora", "merged"] | None,
    profile: Literal["vllm"] | None,
    model: str | None,
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write an adapter for other programs; the adapter itself stays as it is.

    A run directory stands for the adapter it recommends, or its best where it recommends none.
    """
    if profile is not None and form == "merged":
        raise click.UsageError("--profile is about adapters; a merged model is loaded as any other model is")
    from remora.adapters.export import export_adapter
    from remora.adapters.folder import refuse_existing

    refuse_existing(out)
    folder = find_adapter(adapter)
    loaded = open_adapter(folder, model, labels)
    done = export_adapter(out, loaded.base, loaded.loaded, form or "peft", vllm=profile == "vllm")
    for note in done.notes:
        say(note)
    if as_json:
        print_json(
            {
                "adapter": str(folder),
                "out": str(done.folder),
                "format": done.form,
                "profile": profile,
                "method": loaded.record.method,
                "peft_type": done.peft_type,
                "rank": done.rank,
                "bytes": done.num_bytes,
                "notes": list(done.notes),
            }
        )
        return
    click.echo(done.folder)
