"""The relay that puts verdicts into the answers to Progress Checks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_openai import Brain, FakeOpenAI, Reply

from agentinfer_lg.collab.progress_check import PROGRESS_REGEX, parse_verdict
from agentinfer_lg.context import Context
from agentinfer_lg.evals.agent.closed_loop import ResearchAgent
from agentinfer_lg.evals.agent.self_evaluation.forced_checks import ForcedChecks, draw, forced_answer
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.result import Result
from agentinfer_lg.settings import EndpointSettings, Settings
from agentinfer_lg.tools.local import LocalFolder

QUESTION = Question(id="q-1", question="When was Heron Point lit?", answer="1871", evidence=("Heron Point",))
OTHER = Question(id="q-2", question="When was Lamp 3 made?", answer="1903", evidence=("Lamp 3",))
BRAIN = Brain()


def block(value: str) -> str:
    return f"===PROGRESS===\n<reason>because it is so now</reason> <value>{value}</value>\n===END_PROGRESS==="


def step(query: str) -> str:
    return json.dumps({"thought": "so", "action": "search", "query": query})


@pytest.fixture
def engine() -> Iterator[FakeOpenAI]:
    with FakeOpenAI([{"role": "progress", "reply": block("TRUE")}], models=("small", "large")) as server:
        yield server


def relay(engine: FakeOpenAI, rate: float | None, *, seed: int = 0) -> ForcedChecks:
    engines: Any = {"small": engine.url, "large": engine.url}
    return ForcedChecks(engines=engines, questions=[QUESTION, OTHER], error_rate=rate, seed=seed)


def post(
    base_url: str, *, query: str = "", role: Any = "progress", turn: int = 0, **body: object
) -> httpx.Response:
    hints = SessionHints(session_id="s", role=role, turn=turn).to_xargs()
    messages = [{"role": "user", "content": "Question: ?"}, {"role": "assistant", "content": step(query)}]
    request = {"model": "small", "messages": messages, "max_tokens": 200, "vllm_xargs": hints, **body}
    with httpx.Client(trust_env=False) as http:
        return http.post(f"{base_url}/chat/completions", json=request)


def text(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def url(checks: ForcedChecks, question: Question = QUESTION, tier: str = "small") -> str:
    return f"{checks.address}/{question.id}/{tier}/v1"


@given(st.integers(0, 2**40), st.text(max_size=20), st.integers(0, 10**6))
def test_a_draw_is_a_number_from_0_to_1_and_always_the_same(seed: int, question: str, turn: int) -> None:
    drawn = draw(seed, question, turn)
    assert 0 <= drawn < 1
    assert drawn == draw(seed, question, turn)


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 1))
def test_what_is_flipped_at_a_rate_is_flipped_at_every_higher_one(
    turn: int, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    drawn = draw(0, "q", turn)
    assert not drawn < low or drawn < high
    assert not drawn < 0.0
    assert drawn < 1.0


@pytest.mark.parametrize("percent", [5, 10, 20, 30])
def test_as_many_are_flipped_as_the_rate_says(percent: int) -> None:
    """Exact binomial tails: a right generator fails for one seed in 500, and the seed is fixed."""
    count = 1000
    flipped = sum(draw(1, f"cw-1-{n // 10:04d}", n % 10) < percent / 100 for n in range(count))
    ways = [math.comb(count, k) * percent**k * (100 - percent) ** (count - k) for k in range(count + 1)]
    assert sum(ways) == 100**count
    assert 1000 * min(sum(ways[: flipped + 1]), sum(ways[flipped:])) > 100**count


def test_turns_and_questions_and_seeds_are_drawn_apart() -> None:
    drawn = {draw(seed, question, turn) for seed in range(5) for question in "abcde" for turn in range(20)}
    assert len(drawn) == 500


@given(
    st.sampled_from(["TRUE", "FALSE"]), st.text(max_size=300) | st.from_regex(PROGRESS_REGEX, fullmatch=True)
)
def test_every_answer_becomes_a_block_with_the_verdict(verdict: Any, answer: str) -> None:
    forced = forced_answer(answer, verdict)
    assert re.fullmatch(PROGRESS_REGEX, forced)
    assert parse_verdict(forced).verdict == verdict


def test_the_reason_stays() -> None:
    assert forced_answer(block("TRUE"), "FALSE") == block("FALSE")
    cut_off = block("TRUE").partition(" <value>")[0].removesuffix("</reason>")
    assert forced_answer(cut_off, "FALSE") == block("FALSE")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("word " * 40, " ".join(["word"] * 24)),
        ("a  <b>\tc", "a b> c"),
        ("", "no reason could be read"),
        ("x" * 61, "no reason could be read"),
    ],
)
def test_a_reason_fits_the_block(reason: str, kept: str) -> None:
    forced = forced_answer(f'{{"reason": "{reason}", "value": "TRUE"}}', "FALSE")
    assert forced == block("FALSE").replace("because it is so now", kept)
    assert re.fullmatch(PROGRESS_REGEX, forced)


@pytest.mark.parametrize(("query", "oracle"), [("heron point", True), ("maps", False)])
@pytest.mark.parametrize(("rate", "flipped"), [(0.0, False), (1.0, True)])
def test_the_agent_reads_the_oracle_or_its_opposite(
    engine: FakeOpenAI, query: str, oracle: bool, rate: float, flipped: bool
) -> None:
    with relay(engine, rate) as checks:
        response = post(url(checks), query=query)
        (check,) = checks.checks(QUESTION.id)
    told = "TRUE" if oracle != flipped else "FALSE"
    assert text(response) == block(told)
    assert (check.oracle, check.said, check.told, check.flipped) == (oracle, "TRUE", told, flipped)
    assert response.json()["usage"]["completion_tokens"] > 0, "the engine did the work"


def test_without_a_rate_nothing_is_forced_but_counted(engine: FakeOpenAI) -> None:
    with relay(engine, None) as checks:
        assert text(post(url(checks), query="maps")) == block("TRUE")
        (check,) = checks.checks(QUESTION.id)
    assert (check.oracle, check.said, check.told, check.flipped) == (False, "TRUE", "TRUE", False)


def test_questions_have_their_own_evidence_and_count(engine: FakeOpenAI) -> None:
    with relay(engine, 0.0) as checks:
        assert text(post(url(checks), query="lamp 3")) == block("FALSE")
        assert text(post(url(checks, OTHER, "large"), query="lamp 3", turn=4)) == block("TRUE")
        assert [(check.turn, check.tier) for check in checks.checks(QUESTION.id)] == [(0, "small")]
        assert [(check.turn, check.tier) for check in checks.checks(OTHER.id)] == [(4, "large")]


def test_a_check_that_is_asked_again_counts_once_and_is_flipped_alike(engine: FakeOpenAI) -> None:
    with relay(engine, 0.5) as checks:
        answers = {text(post(url(checks), query="heron point")) for _ in range(3)}
        assert len(answers) == len(checks.checks(QUESTION.id)) == 1


def test_what_is_no_check_passes_as_it_is(engine: FakeOpenAI) -> None:
    with relay(engine, 1.0) as checks:
        for role in ("think", "plan", "filter", "distill", "qa", "write", "prewarm"):
            body = {"temperature": 0.5, "structured_outputs": {"regex": "x{3}"}}
            through, direct = (
                post(base, role=role, query=block("TRUE"), **body) for base in (url(checks), engine.url)
            )
            assert engine.chats[-2].body == engine.chats[-1].body
            for answer in (one := through.json(), other := direct.json()):
                del answer["id"], answer["created"], answer["usage"]["prompt_tokens_details"]
            assert one == other
        assert checks.checks(QUESTION.id) == []


def test_headers_reach_the_engine(engine: FakeOpenAI) -> None:
    with relay(engine, 0.0) as checks, httpx.Client(trust_env=False) as http:
        http.get(f"{url(checks)}/models", headers={"X-Session-ID": "abc"})
    assert engine.requests[-1].headers["x-session-id"] == "abc"
    assert engine.requests[-1].path == "/v1/models"


def test_an_unreadable_answer_is_forced_and_told_apart() -> None:
    with (
        FakeOpenAI(lambda request, index: "Hm, who knows.", models=("small",)) as engine,
        relay(engine, 0.0) as checks,
    ):
        assert parse_verdict(text(post(url(checks), query="heron point"))).verdict == "TRUE"
        assert [check.said for check in checks.checks(QUESTION.id)] == ["UNREADABLE"]


@pytest.mark.parametrize(
    "reply",
    [Reply(text=block("TRUE"), finish_reason="abort"), Reply(no_choices=True), Reply(status=400, text="no")],
)
def test_failures_reach_the_agent(reply: Reply) -> None:
    with FakeOpenAI(lambda request, index: reply, models=("small",)) as engine, relay(engine, 1.0) as checks:
        through, direct = (post(base, query="heron point") for base in (url(checks), engine.url))
        assert through.status_code == direct.status_code
        assert through.json().get("choices") == direct.json().get("choices")
        assert checks.checks(QUESTION.id) == []


def test_what_nobody_asked_is_not_found(engine: FakeOpenAI) -> None:
    with relay(engine, 0.0) as checks, httpx.Client(trust_env=False) as http:
        for path in ("", "/q-1", "/q-9/small/v1/models", "/q-1/medium/v1/models"):
            assert http.get(f"{checks.address}{path}").status_code == 404
    assert engine.requests == []


class Searching:
    """Searches for the same kind of thing in each turn, sees progress in everything, and answers in the last turn."""

    def __init__(self, *queries: str) -> None:
        self.queries = queries

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        if hints["agent_role"] != "think":
            return BRAIN(request, index)
        turn = hints["agent_turn"]
        query = self.queries[min(turn, len(self.queries) - 1)]
        values = {"thought": f"turn {turn}", "query": query, "answer": "", "sources": [1]}
        return BRAIN.act(request, "finish" if turn >= len(self.queries) else "web_search", values)


async def _run(folder: Path, rate: float | None, *queries: str) -> tuple[Result, list[str], list[Any]]:
    docs = folder / "docs"
    docs.mkdir()
    (docs / "heron.md").write_text("# Heron Point\n\nHeron Point was lit in 1871 by Ada Winter.\n")
    for number in range(4):
        (docs / f"{number}.md").write_text(f"# Lamp {number}\n\nLamp {number} was made in {1900 + number}.\n")
    with FakeOpenAI(Searching(*queries), models=("small", "large")) as engine, relay(engine, rate) as checks:
        endpoints: Any = {
            tier: EndpointSettings(base_url=engine.url, model=tier, tool_calling="json", hints="on")
            for tier in ("small", "large")
        }
        settings = checks.settings(Settings(_env_file=None, **endpoints), QUESTION.id)
        knobs: Any = {"compression": "off", "search_filter": "off", "results_per_query": 1}
        knobs |= {"progress_checks": "all", "rescue_reads": False}
        context = Context(max_seekers=1, report="brief", verifier=False, **knobs)
        agent = ResearchAgent(settings, LocalFolder(docs))
        result = await agent.ask(QUESTION.question, context, thread=QUESTION.id)
        tiers = [chat.model for chat in engine.chats if chat.role == "think"]
        return result, tiers, checks.checks(QUESTION.id)


async def test_a_forced_false_calls_the_large_model(tmp_path: Path) -> None:
    result, tiers, checks = await _run(tmp_path, 0.0, "heron point", "lamp 1", "lamp 2", "lamp 3")
    assert [check.oracle for check in checks] == [True, False, False, False]
    assert {check.said for check in checks} == {"TRUE"}
    assert tiers == ["small", "small", "large", "large", "small"]
    assert len(result["escalations"]) == 1
    assert [check["verdict"] for check in result["progress_checks"]["checks"][:4]] == ["TRUE", *["FALSE"] * 3]
    assert result["usage"]["small"]["calls"] > 0


async def test_a_forced_true_keeps_the_small_model(tmp_path: Path) -> None:
    result, tiers, checks = await _run(tmp_path, 1.0, "lamp 0", "lamp 1", "lamp 2")
    assert [check.oracle for check in checks] == [False] * 3
    assert tiers == ["small"] * 4
    assert result["escalations"] == []


async def test_what_earlier_turns_showed_is_known(tmp_path: Path) -> None:
    _, _, checks = await _run(tmp_path, None, "heron point", "heron point", "point heron lit")
    assert [check.oracle for check in checks] == [True, False, False]
