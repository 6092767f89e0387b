"""Commands that are loaded when they are called, from a table of names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context


class CommandTable(TyperGroup):
    """A group of commands that imports a command's module when the command is called or listed."""

    table: ClassVar[Mapping[str, str]] = {}
    """Name of a command to the module whose `app` holds it."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Find the command of the first argument; the error about a wrong name suggests names of the table, too."""
        if args and self.get_command(ctx, args[0]) is None:
            for name in self.table:  # the base class suggests what is in `commands`
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Return the command, loaded at the first call."""
        if cmd_name in self.table and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name, self.table[cmd_name])
        return super().get_command(ctx, cmd_name)


def command_table(table: Mapping[str, str]) -> type[CommandTable]:
    """Return a group class for `typer.Typer(cls=...)`.

    Args:
        table: Name of a command to the module whose `app` holds it; an `app` without that command is a group of this name.
    """
    return type("CommandTable", (CommandTable,), {"table": table})


def _load(name: str, module: str) -> Command:
    app: typer.Typer = importlib.import_module(module).app
    group = typer.main.get_group(app)
    return group.commands.get(name, group)
