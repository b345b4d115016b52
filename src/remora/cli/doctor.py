"""Command that checks this machine."""

from pathlib import Path

import click

from remora.cli import options
from remora.cli.console import print_json
from remora.errors import ResourceError


@click.command()
@options.json_option
def doctor(*, as_json: bool) -> int:
    """Check this machine: versions, precision and threads by measurement, memory, disk, one training step.

    Exit code 4 when something failed.
    """
    from remora.cli.checks import Check, all_checks

    found: list[Check] = []
    for check in all_checks(Path.cwd()):
        result = check()
        found.append(result)
        if not as_json:
            click.echo(f"{result.verdict:<8} {result.name:<13} {result.found}")
            if result.hint:
                click.echo(f"{'':<8} {'':<13} hint: {result.hint}")
    failed = any(result.verdict == "failed" for result in found)
    if as_json:
        checks = [{"name": c.name, "verdict": c.verdict, "found": c.found, "hint": c.hint} for c in found]
        print_json({"ok": not failed, "checks": checks})
    return ResourceError.exit_code if failed else 0
