"""Flags of `agentinfer serve` that are made from the settings of AgentSAM and AgentSched.

A field of `SamConfig` or `SchedConfig` whose metadata names a `flag` and its `help` is a flag. In the help text, `{default}`
stands for the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class PartFlags:
    """The flags of one part."""

    config: type[Any]
    """Dataclass of its settings."""
    panel: str
    """Heading in the help text."""

    @property
    def named(self) -> list[Field[Any]]:
        """The settings that are flags."""
        return [each for each in fields(self.config) if each.metadata.get("flag")]

    def parameters(self) -> list[inspect.Parameter]:
        """Return a parameter for each flag; None: not given."""
        hints = get_type_hints(self.config)
        return [
            inspect.Parameter(
                _parameter(each),
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[hints[each.name] | None, self._option(each)],
            )
            for each in self.named
        ]

    def read(self, given: Mapping[str, Any]) -> Any:  # Any: an instance of `config`
        """Return the settings of the part.

        Args:
            given: Values by the names of parameters.
        """
        values = {each.name: given[_parameter(each)] for each in self.named}
        return self.config(**{name: value for name, value in values.items() if value is not None})

    def _option(self, each: Field[Any]) -> Any:  # Any: typer's own signature
        text = each.metadata["help"].format(default=each.default)
        return typer.Option(each.metadata["flag"], help=text, rich_help_panel=self.panel, show_default=False)


def with_part_flags(*parts: PartFlags) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the flags of parts; it gets their values as keyword arguments."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        fixed = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [each for part in parts for each in part.parameters()]

        def called(**values: Any) -> None:
            command(**values)

        called.__doc__ = command.__doc__
        called.__name__ = command.__name__
        called.__signature__ = inspect.Signature([*fixed, *more])  # type: ignore[attr-defined]  # for Typer
        called.__annotations__ = {each.name: each.annotation for each in (*fixed, *more)}
        return called

    return decorate


def _parameter(each: Field[Any]) -> str:
    return str(each.metadata["flag"]).removeprefix("--").replace("-", "_")
