"""AgentCollab inside the graph: which model really gets the Think requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Recorded, Reply

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph
from agentinfer_lg.collab.controller import CollabSettings, advance, start
from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools.local import LocalFolder

QUESTION = "When was Heron Point Light lit?"
BRAIN = Brain()
_WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()  # noqa: SIM905


def _block(value: str) -> str:
    return f"===PROGRESS===\n<reason>because it is so now</reason> <value>{value}</value>\n===END_PROGRESS==="


class Scripted:
    """A model that searches for something new in each turn, judges itself as scripted, and answers in the last one.

    Args:
        verdicts: One letter per turn: T, F, or G for garbage; the last one holds from then on.
        last: Turn of the answer; None for never.
        query: What is searched for, with `{}` for the turn.
    """

    def __init__(
        self, verdicts: str, *, last: int | None, query: str = "lamp {}", tool: str = "web_search"
    ) -> None:
        self.verdicts = verdicts
        self.last = last
        self.query = query
        self.tool = tool

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        turn = hints["agent_turn"]
        if hints["agent_role"] == "progress":
            letter = self.verdicts[min(turn, len(self.verdicts) - 1)]
            return Reply(text={"T": _block("TRUE"), "F": _block("FALSE"), "G": "Hm, who knows."}[letter])
        if hints["agent_role"] != "think":
            return BRAIN(request, index)
        thought = " ".join(f"{word}{turn}" for word in _WORDS)
        query = self.query.format(turn)
        values = {
            "thought": thought,
            "query": query,
            "queries": [query],
            "answer": "",
            "sources": [1],
            "source": 1,
        }
        finish = self.last is not None and turn >= self.last
        return BRAIN.act(request, "finish" if finish else self.tool, values)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "heron.md").write_text("# Heron Point\n\nHeron Point Light was lit in 1871 by Ada Winter.\n")
    for turn in range(30):
        year = 1900 + turn
        (folder / f"lamp-{turn}.md").write_text(
            f"# Lamp {turn}\n\nLamp {turn} was made in {year} by maker {turn}.\n"
        )
    return folder


@pytest.fixture
def trust(docs: Path) -> Path:
    """The light, and the trust that keeps it: the second names nothing of the first."""
    (docs / "heron.md").write_text("# Heron Point Light\n\nHeron Point Light is kept by the Aldern Trust.\n")
    (docs / "aldern.md").write_text("# Aldern Trust\n\nThe Aldern Trust was founded in 1871 by Ada Winter.\n")
    return docs


class Run:
    """A finished run, seen from the server and from its records."""

    def __init__(self, result: dict[str, Any], server: FakeOpenAI) -> None:
        self.result = result
        self.server = server

    @property
    def tiers(self) -> str:
        """S or L per Think request, by the model that was asked."""
        return "".join(
            chat.model.removeprefix("fake-")[0].upper() for chat in self.server.chats if chat.role == "think"
        )

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Records of the Progress Checks."""
        found: list[dict[str, Any]] = self.result["checks"]
        return found

    def thinks(self, model: str) -> list[Recorded]:
        """The Think requests to a model."""
        return [chat for chat in self.server.chats if chat.role == "think" and chat.model == model]

    def calls(self, role: str) -> list[dict[str, Any]]:
        """Records of the calls of a role."""
        return [call for call in self.result["calls"] if call["role"] == role]


async def _run(
    docs: Path, script: Any, *, mode: str = "json", search: LocalFolder | None = None, **knobs: Any
) -> Run:
    knobs = {
        "max_turns": 20,
        "report": "brief",
        "verifier": False,
        "results_per_query": 1,
        "progress_checks": "all",
        "rescue_reads": False,
        **knobs,
    }
    with FakeOpenAI(script) as server:
        tiers: Any = {
            tier: EndpointSettings(
                base_url=server.url, model=f"fake-{tier}", tool_calling=mode, max_retries=0
            )
            for tier in ("small", "large")
        }
        settings = Settings(
            **tiers,
            docs=docs,
            home=docs.parent / "home",
            _env_file=None,
        )
        graph = create_deep_research_graph(settings=settings, search=search)
        result: Any = await graph.ainvoke({"question": QUESTION}, context=Context(**knobs))
        return Run(result, server)


ALGORITHM_1: dict[str, Any] = {"budget": "static", "static_budget": 2, "cooldown": 0}


@pytest.mark.parametrize(
    ("verdicts", "tiers"),
    [
        # A FALSE of the small model calls the large one, its TRUE hands back.
        ("TTTT", "SSSSS"),
        ("FTTT", "SLSSS"),
        ("TFTT", "SSLSS"),
        # Guardrail: after B_L = 2 large steps the small model works again, whatever the verdict.
        ("FFFT", "SLLSS"),
        ("FFFF", "SLLSL"),
        # What cannot be read is no cry for help from the small model, and no success of the large one.
        ("GGGG", "SSSSS"),
        ("FGGT", "SLLSS"),
        ("FGTT", "SLLSS"),
    ],
)
async def test_verdicts_drive_the_tiers_as_algorithm_1_says(docs: Path, verdicts: str, tiers: str) -> None:
    run = await _run(docs, Scripted(verdicts, last=len(verdicts)), **ALGORITHM_1)
    assert run.tiers == tiers
    names = {"T": "TRUE", "F": "FALSE", "G": "UNREADABLE"}
    assert [check["verdict"] for check in run.checks] == [*(names[letter] for letter in verdicts), "SKIPPED"]
    assert "".join(check["tier"][0].upper() for check in run.checks) == tiers
    judged = [chat.model for chat in run.server.chats if chat.role == "progress"]
    assert judged == [chat.model for chat in run.server.chats if chat.role == "think"][:-1], (
        "each model judges its own step"
    )
    escalations = len(re.findall("(?=SL)", tiers))
    assert len(run.result.get("escalations", [])) == escalations


@pytest.mark.parametrize(("cooldown", "tiers"), [(0, "SLLSLLS"), (1, "SLLSSLL"), (2, "SLLSSSL")])
async def test_a_rescue_is_followed_by_a_rest(docs: Path, cooldown: int, tiers: str) -> None:
    run = await _run(docs, Scripted("F", last=6), **{**ALGORITHM_1, "cooldown": cooldown})
    assert run.tiers == tiers


async def test_failed_rescues_grow_the_cumulative_budget(docs: Path) -> None:
    run = await _run(
        docs,
        Scripted("F", last=None),
        budget="cumulative",
        initial_budget=1,
        budget_slope=1,
        budget_ceiling=2,
        cooldown=0,
        max_turns=9,
    )
    assert run.tiers == "SLSLLSLLS"


async def test_seekers_may_warm_up_on_the_large_model(docs: Path) -> None:
    run = await _run(docs, Scripted("T", last=3), seeker_warmup_steps=2)
    assert run.tiers == "LLSS"
    assert [check["verdict"] for check in run.checks] == ["SKIPPED", "SKIPPED", "TRUE", "SKIPPED"]


def _expected(context: Context, steps: int, verdict: Any, *, tool_error: Sequence[bool] = ()) -> str:
    """Tiers by the pure controller."""
    settings = CollabSettings.from_context(
        context,
        warmup_steps=context.seeker_warmup_steps,
        max_large_steps=context.max_large_steps - (context.policy != "always-small"),
        agent="seeker-1",
    )
    state, tiers = start(settings), ""
    for step in range(steps):
        tiers += state.tier[0].upper()
        error = step < len(tool_error) and tool_error[step]
        state = advance(state, settings, verdict=verdict, tool_error=error).state
    return tiers


@pytest.mark.parametrize(
    ("policy", "tiers", "planner"),
    [
        ("always-small", "SSSSS", "small"),
        ("always-large", "LLLLL", "large"),
        ("large-planner-only", "SSSSS", "large"),
        ("random", None, "large"),
        ("escalate-on-tool-error", "SSSSS", "large"),
    ],
)
async def test_fixed_policies(docs: Path, policy: Any, tiers: str | None, planner: str) -> None:
    knobs = {"policy": policy, "random_p": 0.5, "seed": 7}
    run = await _run(docs, Scripted("F", last=4), **knobs)
    expected = _expected(Context(**knobs), 5, "SKIPPED")
    assert run.tiers == (tiers or expected)
    if policy == "random":
        assert {"S", "L"} <= set(expected), "a seed that shows both"
    assert run.calls("progress") == [], "nothing could follow from a check, so none is paid for"
    assert {call["tier"] for call in run.calls("plan")} == {planner}


async def test_a_tool_error_escalates_under_its_policy(docs: Path) -> None:
    class Failing(Scripted):
        """Reads a page that does not exist in turn 1, searches otherwise."""

        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            hints = request["vllm_xargs"]
            if hints["agent_role"] == "think" and hints["agent_turn"] == 1:
                return Reply(text='{"thought": "read it", "action": "read", "url": "no-such-file.md"}')
            return super().__call__(request, index)

    run = await _run(docs, Failing("T", last=4), policy="escalate-on-tool-error")
    assert run.tiers == "SSLSS"
    assert [(record["tool"], record["ok"]) for record in run.result["tools"]][1] == ("crawl", False)
    (rescue,) = run.thinks("fake-large")
    assert "There is no document" in rescue.text, "the model reads what went wrong"


async def test_a_repeated_search_escalates_although_the_model_is_content(docs: Path) -> None:
    script = Scripted("T", last=5, query="lamp 3 again")
    run = await _run(docs, script, verifier=True, repeat_limit=2, stall_limit=10, **ALGORITHM_1)
    assert run.tiers == "SSSSLL", "the third time is one too many (the first search also asks the task)"
    third = run.checks[3]
    assert third["verdict"] == "TRUE"
    assert third["stall"].startswith("repeat:")
    assert "verifier: repeat" in run.result["escalations"][0]["cause"]
    blind = await _run(docs, script, verifier=False, **ALGORITHM_1)
    assert set(blind.tiers) == {"S"}


async def test_rounds_without_news_escalate(docs: Path) -> None:
    script = Scripted("T", last=6, query="lamp 3 {}")
    run = await _run(docs, script, verifier=True, stall_limit=2, **ALGORITHM_1)
    assert "L" in run.tiers
    assert "no new evidence" in run.result["escalations"][0]["cause"]


async def test_a_refused_answer_counts_against_the_model(docs: Path) -> None:
    class Hasty(Scripted):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            if request["vllm_xargs"]["agent_role"] == "qa":
                return Reply(text="unknown")
            return super().__call__(request, index)

    run = await _run(docs, Hasty("T", last=1), **ALGORITHM_1)
    assert run.tiers[:3] == "SSL"
    assert run.checks[1]["stall"] == "the proposed answer was not accepted"
    assert "This answer is not accepted" in run.thinks("fake-large")[0].text, "and the other one reads why"


async def test_a_model_that_is_never_content_ends_within_its_budgets(docs: Path) -> None:
    run = await _run(docs, Scripted("F", last=None), max_turns=8, max_large_steps=4, cooldown=0)
    assert len(run.tiers) == 8
    assert run.tiers.count("L") == 3, "one of the four went into the plan"
    report = run.result["report"]
    assert "seeker-1 used its 8 turns (max_turns)." in report
    assert "seeker-1 used its 3 steps of the large model (max_large_steps)." in report
    assert report.count("max_large_steps") == 1, "said once"
    assert "1871" in report, "what was found is not lost"


async def test_large_tokens_run_out(docs: Path) -> None:
    run = await _run(docs, Scripted("F", last=None), max_turns=6, max_large_tokens=500, **ALGORITHM_1)
    assert run.tiers.count("L") == 1, "the small model goes on alone"
    assert len(run.tiers) == 6
    assert "(max_large_tokens)" in run.result["report"]
    assert {call["tier"] for call in run.calls("write")} <= {"small"}


async def test_small_tokens_run_out(docs: Path) -> None:
    run = await _run(docs, Scripted("T", last=None), max_small_tokens=2000)
    assert 0 < len(run.tiers) < 20
    assert "(max_small_tokens)" in run.result["report"]
    assert run.result["findings"][0]["complete"] is False


async def test_no_large_steps_at_all(docs: Path) -> None:
    run = await _run(docs, Scripted("F", last=3), max_large_steps=0)
    assert {chat.model for chat in run.server.chats if chat.role not in ("qa", "write")} == {"fake-small"}
    assert run.calls("progress") == []


async def test_reprefill_is_recorded_on_a_switch_and_only_there(docs: Path) -> None:
    run = await _run(docs, Scripted("TFFTT", last=5), **ALGORITHM_1)
    assert run.tiers == "SSLLSS"
    thinks = run.calls("think")
    paid = [call["reprefill_tokens"] > 0 for call in thinks]
    # Back on the small model its old prefix is still cached; what the large one wrote meanwhile is the price.
    assert paid == [False, False, True, False, True, False]
    before, switch = thinks[1], thinks[2]
    known = before["prompt_tokens"] + before["output_tokens"]
    assert known * 0.8 <= switch["reprefill_tokens"] <= known
    assert all(call["reprefill_tokens"] == 0 for call in run.result["calls"] if call["role"] != "think")
    steady = await _run(docs, Scripted("T", last=4), **ALGORITHM_1)
    assert sum(call["reprefill_tokens"] for call in steady.result["calls"]) == 0


async def test_policies_without_checks_rescue_too(docs: Path) -> None:
    run = await _run(docs, Scripted("T", last=11), policy="random", random_p=0.5, seed=7)
    assert re.search("SL+SL+S", run.tiers), "a seed that shows two rescues"
    turns = [number for number, tier in enumerate(run.tiers) if tier == "L"]
    large = dict(zip(turns, run.thinks("fake-large"), strict=True))
    for turn, chat in large.items():
        first = run.tiers[turn - 1] == "S"
        assert chat.body["vllm_xargs"]["agent_supersedes"] == int(first and turn > 0)
        assert ("Notes on results" in chat.text) is ("S" in run.tiers[:turn])
    assert "Notes on results" not in "".join(chat.text for chat in run.thinks("fake-small"))


async def test_warm_up_is_no_rescue(docs: Path) -> None:
    run = await _run(docs, Scripted("TTFT", last=5), seeker_warmup_steps=2, **ALGORITHM_1)
    assert run.tiers == "LLSLSS"
    first, second, rescue = run.thinks("fake-large")
    assert second.body["messages"][: len(first.body["messages"])] == first.body["messages"]
    assert "Notes on results" not in second.text
    assert "Notes on results" in rescue.text
    marks = [chat.body["vllm_xargs"]["agent_supersedes"] for chat in (first, second, rescue)]
    assert marks == [0, 0, 1]


class Reader(Scripted):
    """Says of the passages what is scripted, one answer per reading; the last one holds from then on."""

    def __init__(self, verdicts: str, *answers: str, last: int | None) -> None:
        super().__init__(verdicts, last=last)
        self.answers = list(answers)

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        if request["vllm_xargs"]["agent_role"] != "qa":
            return super().__call__(request, index)
        return Reply(text=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


async def test_a_rescue_begins_with_reading(docs: Path) -> None:
    run = await _run(docs, Reader("TF", "1871", last=9), rescue_reads=True)
    assert run.tiers == "SS", "the large model has nothing to think about"
    assert [(chat.role, chat.model) for chat in run.server.chats][-2:] == [
        ("progress", "fake-small"),
        ("qa", "fake-large"),
    ]
    assert run.result["answer"] == "1871"
    assert run.result["findings"][0]["complete"] is True
    assert len(run.result["escalations"]) == 1
    assert [tool["tool"] for tool in run.result["tools"]] == ["web_search", "web_search", "finish"]


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_a_rescue_thinks_when_reading_does_not_help(docs: Path, mode: str) -> None:
    run = await _run(docs, Reader("TF", "unknown", "1871", last=4), rescue_reads=True, mode=mode)
    assert run.tiers == "SSLS", "the reading was the first of the two steps of the rescue"
    (rescue,) = run.thinks("fake-large")
    assert "This answer is not accepted" in rescue.text
    assert rescue.body["vllm_xargs"]["agent_turn"] == 3
    assert len(run.calls("qa")) == 2
    assert run.result["answer"] == "1871"


async def test_the_same_is_not_read_at_two_rescues(docs: Path) -> None:
    script = Reader("F", "unknown", last=None)
    script.query = "lamp 3"
    run = await _run(docs, script, rescue_reads=True, max_turns=9, cooldown=0)
    assert len(run.result["escalations"]) > 1
    assert len(run.calls("qa")) == 1
    assert run.tiers == "SLSLLLLS", "the second rescue has nothing new to read and thinks at once"


async def test_a_rescue_before_anything_was_found_thinks(docs: Path) -> None:
    run = await _run(docs, Scripted("F", last=None, query="zzz"), rescue_reads=True, max_turns=2)
    assert run.tiers[:1] == "S"
    nothing = docs / "none"
    nothing.mkdir()
    run = await _run(nothing, Scripted("F", last=None, query="zzz"), rescue_reads=True, max_turns=2)
    assert run.tiers == "SL"
    assert run.calls("qa") == []


async def test_checks_that_decide_nothing_are_not_made(docs: Path) -> None:
    run = await _run(docs, Scripted("F", last=6), progress_checks="deciding")
    assert run.tiers == "SSLLSSL"
    asked = [chat.body["vllm_xargs"]["agent_turn"] for chat in run.server.chats if chat.role == "progress"]
    assert asked == [1, 2, 3, 5], "not of the first step, nor while the small model rests from a rescue"
    assert [check["verdict"] for check in run.checks] == [
        "SKIPPED",
        *["FALSE"] * 3,
        "SKIPPED",
        "FALSE",
        "SKIPPED",
    ]


async def test_a_step_that_the_verifier_objects_to_is_not_checked(docs: Path) -> None:
    script = Scripted("T", last=5, query="lamp 3 again")
    knobs = {"progress_checks": "deciding", "repeat_limit": 2, "stall_limit": 10, **ALGORITHM_1}
    run = await _run(docs, script, verifier=True, **knobs)
    assert run.tiers == "SSSSLL"
    asked = [chat.body["vllm_xargs"]["agent_turn"] for chat in run.server.chats if chat.role == "progress"]
    assert asked == [1, 2]
    assert run.checks[3]["verdict"] == "SKIPPED"
    assert "verifier: repeat" in run.result["escalations"][0]["cause"]
    blind = await _run(docs, script, verifier=False, **knobs)
    assert [check["verdict"] for check in blind.checks[1:5]] == ["TRUE"] * 4


async def test_a_search_that_asks_nothing_new_follows_a_lead(trust: Path) -> None:
    script = Scripted("T", last=3, query="heron point light")
    run = await _run(trust, script)
    first, second, third, fourth = run.thinks("fake-small")
    note = "(This was searched for before. Searched for too: Aldern Trust lit)"
    assert note not in second.text, "the first search is new"
    assert note in third.text
    assert "Aldern Trust was founded in 1871" in third.text
    assert fourth.text.count(note) == 1, "it is not followed twice"
    assert fourth.body["messages"][: len(third.body["messages"])] == third.body["messages"]
    without = await _run(trust, script, leads=False)
    assert "Searched for too" not in without.thinks("fake-small")[-1].text
    assert "founded in 1871" not in without.thinks("fake-small")[-1].text
    assert len(first.text) < len(second.text)


async def test_an_answer_is_read_from_what_a_lead_finds_too(trust: Path) -> None:
    run = await _run(trust, Reader("T", "1871", last=1))
    (read,) = [chat for chat in run.server.chats if chat.role == "qa"]
    assert "Aldern Trust was founded in 1871" in read.text
    (finding,) = run.result["findings"]
    assert (finding["answer"], finding["complete"]) == ("1871", True)
    assert [run.result["sources"][key]["title"] for key in finding["sources"]] == ["Aldern Trust"]
    assert "Aldern Trust" in run.result["report"]
    without = await _run(trust, Reader("T", "1871", last=1), leads=False)
    (read,) = [chat for chat in without.server.chats if chat.role == "qa"][:1]
    assert "1871" not in read.text


async def test_what_a_lead_found_is_shown_if_the_answer_is_refused(trust: Path) -> None:
    run = await _run(trust, Reader("T", "unknown", last=1), policy="always-small")
    second = run.thinks("fake-small")[2]
    assert "This answer is not accepted" in second.text
    assert "(Looked up for it: Aldern Trust lit)" in second.text
    assert re.search(r"\[\d\] Aldern Trust: The Aldern Trust was founded in 1871", second.text)
    assert run.thinks("fake-small")[-1].text.count("Looked up for it: Aldern Trust lit") == 1


async def test_a_search_that_fails_leaves_what_was_found(trust: Path) -> None:
    class Broken(LocalFolder):
        """Finds the first time only."""

        searches = 0

        async def search(self, queries: Sequence[str], *, limit: int) -> Any:
            self.searches += 1
            if self.searches > 1:
                msg = "The index is gone."
                raise ToolError(msg)
            return await super().search(queries, limit=limit)

    run = await _run(trust, Reader("T", "Aldern Trust", last=1), search=Broken(trust))
    assert run.result["findings"][0]["answer"] == "Aldern Trust"
    assert run.result["findings"][0]["complete"] is True
