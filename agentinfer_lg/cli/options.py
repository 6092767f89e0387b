"""From flags and environment to `Settings` and `Context`, with errors that name the flag or variable to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentinfer_lg.errors import ConfigurationError, UserInputError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from agentinfer_lg.context import Context
    from agentinfer_lg.settings import Settings


def load_settings(
    *,
    docs: Path | None = None,
    small: Mapping[str, str | None] | None = None,
    large: Mapping[str, str | None] | None = None,
) -> Settings:
    """Read the settings and lay the flags over them.

    Args:
        docs: Folder of documents.
        small: `base_url`, `model` and `api_key` of the small tier, as far as they were given.
        large: The same of the large tier.

    Raises:
        ConfigurationError: A variable or flag is malformed.
    """
    from pydantic import ValidationError

    from agentinfer_lg.settings import EndpointSettings, Settings

    settings = Settings.read()
    updates: dict[str, Any] = {} if docs is None else {"docs": docs}
    for tier, flags in (("small", small or {}), ("large", large or {})):
        given = {key: value for key, value in flags.items() if value is not None}
        if given:
            try:
                updates[tier] = EndpointSettings.model_validate({**dict(getattr(settings, tier)), **given})
            except ValidationError as error:
                msg = f"--{tier}-url cannot be used: {_reasons(error)}"
                raise ConfigurationError(msg) from None
    return settings.model_copy(update=updates)


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split `KEY=VALUE` texts; a later one wins.

    Raises:
        UserInputError: One has no `=`, or its key is no field of `Context`.
    """
    from agentinfer_lg.context import Context

    values: dict[str, str] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            msg = f"--set {text!r} is not of the form KEY=VALUE."
            raise UserInputError(msg)
        if key not in Context.model_fields:
            near = difflib.get_close_matches(key, Context.model_fields, n=3, cutoff=0.5)
            hint = (
                f"Did you mean {' or '.join(near)}?"
                if near
                else f"There are: {', '.join(Context.model_fields)}."
            )
            msg = f"--set {key}: there is no such knob. {hint}"
            raise UserInputError(msg)
        values[key] = value.strip()
    return values


def build_context(*layers: Mapping[str, object]) -> Context:
    """Build the knobs of a run from layers, of which a later one wins; None means not given.

    Raises:
        UserInputError: A value is out of range or of the wrong type.
    """
    from pydantic import ValidationError

    from agentinfer_lg.context import Context

    merged = {key: value for layer in layers for key, value in layer.items() if value is not None}
    try:
        return Context.model_validate(merged)
    except ValidationError as error:
        sentences = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (given: {_clip(item['input'])})"
            for item in error.errors()
        ]
        msg = "These knobs cannot be used. " + "; ".join(sentences) + "."
        raise UserInputError(msg) from None


def _reasons(error: ValidationError) -> str:
    return "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors(include_input=False))


def _clip(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
