"""The registry of search providers: what is chosen, what is missing, and how a new one comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from agentinfer_lg.cli.doctor import diagnose
from agentinfer_lg.errors import ConfigurationError, ToolError
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import EnvironmentSettings, Settings
from agentinfer_lg.tools import (
    Document,
    LocalFolder,
    SearchHit,
    TavilySearch,
    make_provider,
    providers,
)
from agentinfer_lg.tools.providers import check_search, find_provider
from agentinfer_lg.tools.search import ProviderEntry, SearchCheck


class LibrarySettings(EnvironmentSettings):
    """Variables of a provider of one's own."""

    library_shelves: int = Field(default=0, ge=0)


class Library:
    """A provider of one's own, as a new file in `agentinfer_lg/tools` would hold it."""

    name = "library"

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        return [[SearchHit(uri="shelf:1", title=query, snippet="A lamp.")][:limit] for query in queries]

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        return None


async def _check(settings: Settings) -> SearchCheck:
    shelves = LibrarySettings.read().library_shelves
    if shelves > 9:
        msg = "The library is closed."
        raise ToolError(msg)
    return SearchCheck(detail=f"{shelves} shelves", warning=shelves == 1)


ENTRY = ProviderEntry(
    needs="AGENTINFER_LIBRARY_SHELVES to the number of shelves",
    configured=lambda settings: LibrarySettings.read().library_shelves > 0,
    make=lambda settings: Library(),
    check=_check,
)


@pytest.fixture(autouse=True)
def _no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TAVILY_API_KEY", "AGENTINFER_TAVILY_API_KEY", "AGENTINFER_DOCS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "PROVIDERS", {"library": ENTRY, **providers.PROVIDERS})


def _settings(tmp_path: Path, *, docs: Path | None = None, key: str = "") -> Settings:
    return Settings(docs=docs, tavily_api_key=SecretStr(key), home=tmp_path / "home")


def test_the_name_of_an_entry_is_that_of_its_provider(tmp_path: Path) -> None:
    settings = _settings(tmp_path, docs=tmp_path, key="k")
    for name, entry in providers.PROVIDERS.items():
        assert entry.configured(settings)
        assert entry.make(settings).name == name


def test_a_folder_goes_before_the_web(tmp_path: Path) -> None:
    assert isinstance(make_provider(_settings(tmp_path, docs=tmp_path, key="k")), LocalFolder)
    assert isinstance(make_provider(_settings(tmp_path, key="k")), TavilySearch)
    assert make_provider(_settings(tmp_path, key="  ")) is None


def test_where_nothing_is_set_every_provider_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_provider(_settings(tmp_path))
    assert str(caught.value) == (
        "There is nothing to search. Set AGENTINFER_DOCS (or pass --docs) to a folder of documents, or "
        "TAVILY_API_KEY for web search."
    )
    with pytest.raises(ConfigurationError, match="nothing to search"):
        _ = Resources(_settings(tmp_path)).search


def test_the_trial_of_a_folder_says_what_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("A lamp on a rock.")
    settings = _settings(tmp_path, docs=folder)
    found = asyncio.run(check_search(settings))
    assert (found.detail, found.warning) == (f"1 documents in {folder}", False)
    (folder / "b.pdf").write_bytes(b"no PDF")
    found = asyncio.run(check_search(settings))
    assert found.warning
    assert "1 left out, such as: b.pdf" in found.detail


@pytest.mark.usefixtures("library")
def test_a_new_entry_is_all_that_a_new_provider_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path, key="k")
    assert isinstance(make_provider(settings), TavilySearch)
    with pytest.raises(
        ConfigurationError, match=r"Set AGENTINFER_LIBRARY_SHELVES to the number of shelves, or"
    ):
        find_provider(_settings(tmp_path))
    monkeypatch.setenv("AGENTINFER_LIBRARY_SHELVES", "3")
    assert isinstance(make_provider(settings), Library)
    assert isinstance(Resources(settings).search, Library)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("shelves", "verdict"), [("3", "ok"), ("1", "warn"), ("12", "FAIL"), ("x", "FAIL")])
async def test_the_doctor_tries_a_new_provider(
    shelves: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTINFER_LIBRARY_SHELVES", shelves)
    found = {finding.subject: finding async for finding in diagnose(_settings(tmp_path), timeout=5)}
    assert found["search"].verdict == verdict
    if shelves == "x":
        assert "AGENTINFER_LIBRARY_SHELVES" in found["search"].detail
