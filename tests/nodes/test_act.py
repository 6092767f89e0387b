"""Act: what each tool brings, what goes wrong in one, and when an answer is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import SEARCH, Shelf, call_record, model, resources, rounds, runtime, seeker, source

from agentinfer_lg.llm.protocol import Action
from agentinfer_lg.nodes.act import act
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import SeekerState

HERON = source("heron", "Heron Point Light was lit in 1871 by Ada Winter.")
LAMP = "The Aldern lamp was made by Tom Quill."


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "seeker-1-0-0", "tool": tool, "arguments": arguments}


async def _act(state: SeekerState, shared: Resources, call: dict[str, Any], **knobs: Any) -> dict[str, Any]:
    return await act({**state, "call": call}, runtime(**knobs), resources=shared)  # type: ignore[typeddict-item]


async def _observed(
    state: SeekerState, shared: Resources, call: dict[str, Any], **knobs: Any
) -> dict[str, Any]:
    (observation,) = (await _act(state, shared, call, **knobs))["observations"]
    return observation  # type: ignore[no-any-return]


async def test_a_search_finds_documents() -> None:
    shared = resources(Shelf(heron="Heron Point Light is a light.", gull="Gull Rock is a rock."))
    update = await _act(seeker(), shared, _call("web_search", queries=["heron gull"]))
    (observation,) = update["observations"]
    assert observation["ok"]
    assert [each["title"] for each in observation["sources"]] == ["Heron", "Gull"]
    (record,) = update["tools"]
    assert (record["tool"], record["ok"], record["results"]) == ("web_search", True, 2)
    assert "reading" not in update


async def test_a_search_that_finds_nothing_says_so() -> None:
    observation = await _observed(seeker(), resources(), _call("web_search", queries=["heron"]))
    assert observation["text"] == PROMPTS["en"].no_results
    assert observation["ok"]


async def test_a_search_that_asks_nothing_new_names_its_follow_up_queries() -> None:
    state = seeker(
        source("heron", "Heron Point Light is kept by the Aldern Trust."),
        messages=rounds((SEARCH, "Results:"), (SEARCH, "")),
        turn=1,
    )
    shelf = Shelf(aldern="The Aldern Trust was founded in 1871.")
    observation = await _observed(state, resources(shelf), _call("web_search", queries=["heron point"]))
    assert [each["title"] for each in observation["sources"]] == ["Aldern"]
    (followed,) = observation["call"]["arguments"]["leads"]
    assert followed.startswith("Aldern Trust")
    assert followed in observation["text"]


async def test_pages_are_read_by_number_and_by_address() -> None:
    shelf = Shelf(**{"heron.md": "Heron Point Light was lit in 1871.", "gull": "Gull Rock."})
    call = _call("crawl", sources=[1], urls=["gull", "none"])
    observation = await _observed(seeker(HERON), resources(shelf), call)
    assert [each["uri"] for each in observation["sources"]] == ["heron.md", "gull"]
    assert all(each["read"] for each in observation["sources"])
    assert "There is no document 'none'" in observation["text"]
    assert observation["ok"], "some of it was read"


async def test_a_result_that_does_not_exist_is_an_observation() -> None:
    observation = await _observed(seeker(HERON), resources(), _call("crawl", sources=[2], urls=[]))
    assert observation["text"] == "There is no result [2]; the results are numbered 1 to 1."
    assert not observation["ok"]


@pytest.mark.parametrize(("policy", "says"), [("agentcollab", "small"), ("always-large", "large")])
async def test_a_question_about_a_document(policy: str, says: str) -> None:
    shelf = Shelf(**{"heron.md": "Heron Point Light was lit in 1871."})
    shared = resources(shelf, small=model("small"), large=model("large"))
    call = _call("document_qa", source=1, question="When was it lit?")
    update = await _act(seeker(HERON), shared, call, policy=policy)
    (observation,) = update["observations"]
    assert observation["text"] == says
    assert observation["sources"][0]["passages"] == [says], "only the answer enters the context"
    assert [(each["role"], each["tier"]) for each in update["calls"]] == [("qa", says)]


async def test_a_result_is_recalled() -> None:
    call = _call("recall", ticket=1, query="keeper")
    observation = await _observed(seeker(HERON), resources(), call)
    assert "1871" in observation["text"]
    bare = await _observed(seeker(source("heron")), resources(), call)
    assert bare["text"] == PROMPTS["en"].not_distilled.format(number=1)
    assert not bare["ok"]


async def test_a_tool_that_does_not_exist() -> None:
    observation = await _observed(seeker(), resources(), _call("rm", path="x"))
    assert observation["text"] == "There is no tool 'rm'."
    assert not observation["ok"]


async def test_a_tool_that_breaks_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Cracked(Shelf):
        async def search(self, queries: Any, *, limit: int) -> Any:
            msg = "secret"
            raise ValueError(msg)

    observation = await _observed(seeker(), resources(Cracked()), _call("web_search", queries=["heron"]))
    assert observation["text"] == "web_search failed: ValueError"
    assert not observation["ok"]
    assert "tool web_search failed" in caplog.text


# Answers


async def test_an_answer_with_its_sources_is_accepted() -> None:
    call = _call("finish", answer="Lit in 1871 [1].", sources=[1, 9])
    observation = await _observed(seeker(HERON), resources(), call)
    assert observation["ok"]
    assert observation["text"] == "Lit in 1871."
    assert list(observation["call"]["arguments"]["sources"]) == ["heron"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("Unknown.", "not_found_in_passages"), ("Lit in 1950 by Otto Summer.", "not_supported")],
)
async def test_an_answer_is_refused_with_a_reason(answer: str, reason: str) -> None:
    call = _call("finish", answer=answer, sources=[])
    observation = await _observed(seeker(HERON), resources(), call)
    assert not observation["ok"]
    assert getattr(PROMPTS["en"], reason) in observation["text"]


@pytest.mark.parametrize(("before", "accepted"), [(1, False), (2, True)])
async def test_the_third_answer_is_taken_as_it_is(before: int, accepted: bool) -> None:
    finish = Action(tool="finish", arguments={"answer": "Unknown.", "sources": []})
    state = seeker(HERON, messages=rounds(*[(finish, "no")] * before, (finish, "")))
    observation = await _observed(state, resources(), _call("finish", answer="Unknown.", sources=[]))
    assert observation["ok"] is accepted


READING = _call("read_answer", sources=[])
SAVED = _call("finish", answer="", sources=[])
"""A reading as versions before this one saved it."""


@pytest.mark.parametrize("call", [READING, SAVED, _call("finish", answer="[1]", sources=[1])])
async def test_an_answer_is_read_from_the_results(call: dict[str, Any]) -> None:
    large = model("In 1871.")
    update = await _act(seeker(HERON), resources(large=large), call)
    (observation,) = update["observations"]
    assert (observation["ok"], observation["text"]) == (True, "In 1871.")
    assert observation["call"]["tool"] == "finish", "the transcript knows no other tool for it"
    assert list(observation["call"]["arguments"]["sources"]) == ["heron"]
    assert "Ada Winter" in large.asked[0]
    assert [record["role"] for record in update["calls"]] == ["qa"]
    assert update["reading"]["text"] == "In 1871."
    assert [record["tool"] for record in update["tools"]] == ["finish"]


async def test_the_same_is_not_read_twice() -> None:
    update = await _act(seeker(HERON), resources(large=model("In 1871.")), READING)
    again = await _act(seeker(HERON, reading=update["reading"]), resources(), READING)
    assert again["observations"][0]["text"] == "In 1871."
    assert again["calls"] == []


async def test_who_reads() -> None:
    spent = seeker(HERON, calls=[call_record(tier="large", prompt_tokens=20_000)])
    observation = await _observed(spent, resources(small=model("In 1871.")), READING)
    assert observation["ok"], "the small model reads once the budget of the large one is spent"


async def test_what_a_follow_up_query_finds_is_read_too() -> None:
    state = seeker(source("heron", "Heron Point Light is kept by the Aldern Trust."))
    shelf = Shelf(aldern="The Aldern Trust lit it in 1871.")
    large = model("In 1871.", "unknown")
    observation = await _observed(state, resources(shelf, large=large), READING)
    assert observation["ok"]
    assert [each["title"] for each in observation["sources"]] == ["Aldern"]
    assert "lit it in 1871" in large.asked[0]
    refused = await _observed(state, resources(shelf, large=large), READING)
    assert not refused["ok"]
    assert "(Looked up for it: Aldern Trust" in refused["text"]


async def test_a_reading_without_a_model_is_an_observation() -> None:
    observation = await _observed(seeker(HERON), resources(), READING)
    assert not observation["ok"]
    assert "Broken" in observation["text"]
    assert observation["call"] == {**READING, "tool": "finish", "arguments": {"answer": "", "sources": []}}
