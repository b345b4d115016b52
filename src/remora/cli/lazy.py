"""A click group whose commands are imported when they run, so that ``remora --help`` costs nothing."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import click


@dataclass(frozen=True, kw_only=True)
class CommandEntry:
    """Where a command lives.

    Args:
        target: ``"module:attribute"`` of the click command.
        summary: the line shown in the list of commands.
    """

    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is called.

    Args:
        entries: command name to its entry, in the order shown.
        name: name of the group.
        help: text shown above the list of commands.
    """

    def __init__(self, entries: Mapping[str, CommandEntry], *, name: str, help: str) -> None:
        super().__init__(name=name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands in the order shown."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        if cmd_name not in self.entries:
            return None
        module, attribute = self.entries[cmd_name].target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{module}:{attribute} is no click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run.

        Raises:
            click.UsageError: no such command; names the nearest one.
        """
        if args and args[0] not in self.entries:
            near = difflib.get_close_matches(args[0], self.entries, n=1)
            advice = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the entries alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])
