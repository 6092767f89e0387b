"""The search providers that settings can ask for. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.settings import Settings
from agentinfer_lg.tools import local, tavily
from agentinfer_lg.tools.search import ProviderEntry, SearchCheck, SearchProvider

PROVIDERS: Mapping[str, ProviderEntry] = {
    "local": local.ENTRY,
    "tavily": tavily.ENTRY,
}
"""Name of a provider to how it is chosen, made and checked; the first one that is configured is used."""


def find_provider(settings: Settings) -> ProviderEntry:
    """Return the entry of the provider that the settings ask for.

    Raises:
        ConfigurationError: They ask for none.
    """
    entry = _configured(settings)
    if entry is not None:
        return entry
    wanted = ", or ".join(entry.needs for entry in PROVIDERS.values())
    msg = f"There is nothing to search. Set {wanted}."
    raise ConfigurationError(msg)


def make_provider(settings: Settings) -> SearchProvider | None:
    """Return the search that the settings ask for; None where they ask for none."""
    entry = _configured(settings)
    return None if entry is None else entry.make(settings)


async def check_search(settings: Settings) -> SearchCheck:
    """Try the search that the settings ask for with one real call.

    Raises:
        AgentInferError: They ask for none, or it does not work.
    """
    return await find_provider(settings).check(settings)


def _configured(settings: Settings) -> ProviderEntry | None:
    return next((entry for entry in PROVIDERS.values() if entry.configured(settings)), None)
