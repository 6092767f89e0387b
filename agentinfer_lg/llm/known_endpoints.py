"""The records of all endpoints of this process: whoever uses an endpoint again finds what was learned of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from agentinfer_lg.llm.capabilities import Known
from agentinfer_lg.llm.probe import EndpointProfile, probe_endpoint
from agentinfer_lg.settings import EndpointSettings

_MOST_RECORDS = 256
_FRESH_SECONDS = 60.0
"""How long an answer to a probe holds: a run contacts its servers at its start, and its models do so at their first call."""


@dataclass(slots=True)
class _Record:
    known: Known = field(default_factory=Known)
    profile: EndpointProfile | None = None
    asked: float = 0.0


_RECORDS: dict[bytes, _Record] = {}


def known_of(endpoint: EndpointSettings) -> Known:
    """Return what is known of a model at an endpoint; the record is made when it is first asked for."""
    return _record(endpoint).known


async def contact(
    endpoint: EndpointSettings,
    *,
    on_wait: Callable[[str], None] = lambda sentence: None,
) -> EndpointProfile:
    """Return what an endpoint says about itself, from a moment ago if it was asked then.

    Args:
        endpoint: Endpoint to ask.
        on_wait: Told, in a sentence, what is waited for.

    Raises:
        ConfigurationError: No base URL is set, or it is no URL.
        EndpointError: The server cannot be reached, refuses the key, or does not serve the model.
    """
    record = _record(endpoint)
    if record.profile is not None and time.monotonic() - record.asked < _FRESH_SECONDS:
        return record.profile
    profile = await probe_endpoint(endpoint, on_wait=on_wait)
    record.profile, record.asked = profile, time.monotonic()
    return profile


def forget(endpoint: EndpointSettings) -> None:
    """Forget an endpoint: its server may have been started anew, with other abilities or another model."""
    _RECORDS.pop(_key(endpoint), None)


def forget_endpoints() -> None:
    """Forget everything: a server may have been started anew."""
    _RECORDS.clear()


def _record(endpoint: EndpointSettings) -> _Record:
    key = _key(endpoint)
    if key not in _RECORDS and len(_RECORDS) >= _MOST_RECORDS:
        del _RECORDS[next(iter(_RECORDS))]
    return _RECORDS.setdefault(key, _Record())


def _key(endpoint: EndpointSettings) -> bytes:
    said = endpoint.model_dump_json(exclude={"timeout", "max_retries", "start_timeout"})
    text = f"{said}\n{endpoint.api_key.get_secret_value()}"
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
