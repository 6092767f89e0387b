"""A whole session in front of a server that only seems to be an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Reply, constrained_text

from agentinfer_lg.compression import cycle
from agentinfer_lg.evals.common.slow_search import SlowSearch
from agentinfer_lg.evals.compression.long_session import run as long_session
from agentinfer_lg.evals.compression.long_session.figures import Figures, measure
from agentinfer_lg.evals.compression.long_session.run import LongSessionOptions, Variant, record
from agentinfer_lg.evals.compression.long_session.script import make_script
from agentinfer_lg.tools.search import SearchHit

ROUNDS = 8


class Engine(Brain):
    """Follows grammars to the letter."""

    def on_think(self, request: dict[str, Any]) -> Reply:
        return Reply(text=constrained_text(request))


class PatientSearch(SlowSearch):
    """Answers once the background work is done: rounds of this server are too short for it to keep up by itself."""

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        while jobs := [task for task in asyncio.all_tasks() if task.get_name().startswith("agentinfer-")]:
            await asyncio.wait(jobs)
        return await super().search(queries, limit=limit)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for number in range(40):
        lines = " ".join(f"Mill {number}-{line} on river R{number} made {line} tons." for line in range(12))
        (tmp_path / f"{number:02d}.md").write_text(f"# Place {number}\n\n{lines}\n", encoding="utf-8")
    return tmp_path


async def run(docs: Path, variant: Variant, monkeypatch: pytest.MonkeyPatch) -> tuple[Figures, list[str]]:
    monkeypatch.setattr(long_session, "_PUBLISHED_SECONDS", 0.0)
    monkeypatch.setattr(long_session, "SlowSearch", PatientSearch)
    monkeypatch.setattr(cycle, "_GRACE_SECONDS", 60.0)
    options = LongSessionOptions(
        model="", docs=docs, rounds=ROUNDS, after_tokens=1500, keep_rounds=1, notes_tokens=200, keep=4
    )
    script = make_script(docs, rounds=ROUNDS)
    with FakeOpenAI(Engine()) as server:
        recording = await record(script, options, variant, base_url=server.url, model="fake-small")
    searched = [
        query
        for event in recording.events
        if event.values["event"] == "tool_start"
        for query in event.values["arguments"]["queries"]
    ]
    assert searched == [script.searches[0], script.question, *script.searches[1:]]
    return measure(recording), server.roles()


async def test_the_script_is_followed_and_the_swap_is_seen(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, roles = await run(docs, "on", monkeypatch)
    assert len(figures.rounds) == ROUNDS
    assert all(each.extends or each.swapped for each in figures.rounds)
    assert figures.distillations
    assert figures.swaps
    swap = figures.swaps[0]
    assert swap.tokens_after < swap.tokens_before
    assert swap.hit_share > 0.95
    assert figures.roles["distill"]["calls"] == roles.count("distill") > 0
    assert figures.roles["prewarm"]["calls"] == roles.count("prewarm") > 0


async def test_a_cold_swap_is_prefilled_by_the_next_step(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, roles = await run(docs, "cold", monkeypatch)
    assert "prewarm" not in roles
    assert figures.swaps
    assert figures.swaps[0].hit_share < 0.95
    assert figures.swaps[0].bulk_tokens == figures.swaps[0].rest_tokens == 0


async def test_without_compression_the_context_only_grows(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, roles = await run(docs, "off", monkeypatch)
    assert not {"distill", "prewarm"} & set(roles)
    prompts = [each.prompt_tokens for each in figures.rounds]
    assert prompts == sorted(prompts)
    assert all(each.extends for each in figures.rounds)
    assert figures.swaps == figures.distillations == ()
