"""Keys and tokens that must not be read by people: taken out of what servers and libraries say.

Some servers repeat the key that they refuse, whole, encoded for a URL, or with its middle masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from pydantic import SecretStr

from agentinfer_lg.settings import EndpointSettings

_HIDDEN: Final = "***"
_LEAST_CHARS: Final = 6
"""Shorter texts keep no secret, and are parts of ordinary words."""
_NAMES_SECRET: Final = re.compile(
    r"key|token|secret|passw|auth|credential|signature|^sig$|^code$", re.IGNORECASE
)
_MASKED: Final = re.compile(r"""([^\s"'`<>=:,(){}\[\]*]{2,})(?:\*{3,}|\.{3,}|…)([^\s"'`<>,(){}\[\]]*)""")


class SecretTexts:
    """Texts that are hidden.

    Args:
        texts: The secrets; short ones are ignored.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        whole = {text for text in texts if len(text) >= _LEAST_CHARS}
        self._whole = whole
        self._forms = sorted(
            {form for text in whole for form in (text, quote(text, safe=""), quote(text), quote_plus(text))},
            key=len,
            reverse=True,
        )

    @classmethod
    def of(cls, endpoint: EndpointSettings, model: object = None) -> SecretTexts:
        """Return what is secret of an endpoint, and of a chat model."""
        return cls([*_of_endpoint(endpoint), *_of_model(model)])

    def hide(self, text: str) -> str:
        """Return `text` without the secrets."""
        for form in self._forms:
            text = text.replace(form, _HIDDEN)
        return _MASKED.sub(self._hide_masked, text) if self._whole else text

    def _hide_masked(self, match: re.Match[str]) -> str:
        shown = match[1].rpartition(" ")[2]
        return _HIDDEN if any(secret.startswith(shown) for secret in self._whole) else match[0]


def _of_endpoint(endpoint: EndpointSettings) -> Iterator[str]:
    yield endpoint.api_key.get_secret_value()
    for secret in endpoint.headers.values():
        value = secret.get_secret_value()
        yield value
        yield value.partition(" ")[2]  # without its scheme
    yield from _named(endpoint.model_kwargs)
    yield from _named(endpoint.extra_body)
    try:
        parts = urlsplit(endpoint.base_url)
    except ValueError:
        return
    yield parts.password or ""
    yield from _named(dict(parse_qsl(parts.query)))


def _of_model(model: object) -> Iterator[str]:
    for value in getattr(model, "__dict__", {}).values():
        if isinstance(value, SecretStr):
            yield value.get_secret_value()


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts under names of secrets."""
    for name, value in values.items():
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, Mapping):
            yield from _named(value)
        elif isinstance(value, str) and _NAMES_SECRET.search(name):
            yield value
