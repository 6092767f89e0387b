"""The search filter in the graph: who chooses, what is shown, and how to get at what was left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Recorded, Reply, constraint

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph

QUESTION = "Who keeps the harbor lamp of Gannet Holm?"
PLACES = ("Anvil", "Bracken", "Curlew", "Dunlin", "Eider", "Fulmar", "Gannet", "Heron")
LEFT_OUT = "Left out; search for a title to see it: "


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TAVILY_API_KEY", "AGENTINFER_DOCS", "AGENTINFER_SMALL__BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for place in PLACES:
        text = f"# {place} Holm\n\nThe harbor lamp of {place} Holm is kept by Ada {place}son.\n"
        (folder / f"{place.lower()}.md").write_text(text)
    return folder


class Steps:
    """A brain with scripted Think steps and a scripted filter."""

    def __init__(self, choice: Reply, *later: tuple[str, dict[str, Any]]) -> None:
        self.choice = choice
        self.later = later
        self.brain = Brain()

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        if hints["agent_role"] == "filter":
            return self.choice
        if hints["agent_role"] != "think":
            return self.brain(request, index)
        turn = hints["agent_turn"]
        if turn == 0:
            return self._act(request, "web_search", {"queries": ["harbor lamp keeper Holm"]})
        if turn <= len(self.later):
            return self._act(request, *self.later[turn - 1])
        return self._act(request, "finish", {"answer": "Ada Gannetson keeps it.", "sources": [1]})

    @staticmethod
    def _act(request: dict[str, Any], tool: str, arguments: dict[str, Any]) -> Reply:
        if request.get("tools"):
            return Reply(text="So be it.", tool_calls=((tool, arguments),))
        first = {"query": arguments.get("queries", [""])[0], "source": arguments.get("sources", [1])[0]}
        return Brain().act(request, tool, {"thought": "So be it.", **first})


async def _run(
    docs: Path, brain: Any, *, mode: str = "native", **knobs: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Recorded]]:
    """Return the state at the end, the events of the filter, and the chat requests."""
    with FakeOpenAI(brain) as server:
        settings = Settings(
            small=EndpointSettings(base_url=server.url, model="fake-small", max_retries=0, tool_calling=mode),
            docs=docs,
            home=docs.parent / "home",
            _env_file=None,
        )
        graph = create_deep_research_graph(settings=settings)
        values: dict[str, Any] = {"policy": "always-small", "report": "brief", "search_filter": "model"}
        values |= {"search_keep": 2, "results_per_query": 8}
        context = Context(**{**values, **knobs})
        events: list[dict[str, Any]] = []
        state: Any = {}
        stream = graph.astream(
            {"question": QUESTION}, context=context, stream_mode=["custom", "values"], subgraphs=True
        )
        async for space, kind, chunk in stream:
            if kind == "custom" and chunk["event"] == "filter":
                events.append(chunk)
            elif kind == "values" and not space:
                state = chunk
        return state, events, server.chats


def _results(chats: list[Recorded], turn: int) -> str:
    """What the model saw last in a Think step."""
    steps = [chat for chat in chats if chat.role == "think"]
    return str(steps[turn].body["messages"][-1]["content"])


def _shown(text: str) -> list[str]:
    return re.findall(r"^\[\d+\] (\w+) Holm: ", text, re.MULTILINE)


def _pattern(chats: list[Recorded], *, turn: int) -> str:
    """The grammar of a Think step."""
    chat = [chat for chat in chats if chat.role == "think"][turn]
    return str(constraint(chat.body))


def _offered(chat: Recorded) -> list[str]:
    """The results in the order in which the filter's model saw them."""
    return re.findall(r"^\d+\. (\w+) Holm:", chat.text, re.MULTILINE)


async def test_the_model_chooses(docs: Path) -> None:
    state, events, chats = await _run(docs, Steps(Reply(text="5, 3")))
    (asked,) = [chat for chat in chats if chat.role == "filter"]
    found = _offered(asked)
    assert sorted(found) == sorted(PLACES)
    kind, pattern = constraint(asked.body) or ("", "")
    assert kind == "regex"
    assert re.fullmatch(pattern, "5, 3")
    assert not re.fullmatch(pattern, "5, 3, 1"), "no more than are kept"
    assert not re.fullmatch(pattern, "9")
    assert asked.model == "fake-small"
    text = _results(chats, 1)
    assert _shown(text) == [found[4], found[2]], "best first"
    for place in set(found) - {found[4], found[2]}:
        assert f"Ada {place}son" not in text
        assert re.search(rf"{LEFT_OUT}.*\[\d\] {place} Holm", text)
    (record,) = state["filters"]
    assert (record["method"], record["results"], record["pruned"]) == ("model", 8, 6)
    assert record["tokens_saved"] > 0
    (event,) = events
    assert (event["ok"], event["results"], event["removed"]) == (True, 2, 6)
    assert event["tokens_before"] - event["tokens_after"] == record["tokens_saved"]
    assert [call["role"] for call in state["calls"] if call["role"] == "filter"] == ["filter"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(status=500, text="out of order"), "out of order"),
        (Reply(reset=True), "cannot be reached"),
        (Reply(hold="never"), "time allowed was over"),
        (Reply(text="I like all of them."), "could not be read"),
        (Reply(text="77, 0, 99"), "could not be read"),
        (Reply(text=""), "could not be read"),
        (Reply(raw="not json"), "could not be read"),
    ],
)
async def test_words_decide_where_the_model_does_not(docs: Path, reply: Reply, why: str) -> None:
    state, events, chats = await _run(docs, Steps(reply), filter_seconds=0.2 if reply.hold else 60.0)
    assert "Gannet" in _shown(_results(chats, 1)), "the words of the question are in it"
    assert len(_shown(_results(chats, 1))) == 2
    (record,) = state["filters"]
    assert (record["method"], record["pruned"]) == ("lexical", 6)
    (event,) = events
    assert not event["ok"]
    assert why in event["text"]
    assert "Gannetson" in state["findings"][0]["answer"]


async def test_a_model_that_names_one_lets_three_pass(docs: Path) -> None:
    state, _, chats = await _run(docs, Steps(Reply(text="5")), search_keep=4)
    (asked,) = [chat for chat in chats if chat.role == "filter"]
    shown = _shown(_results(chats, 1))
    assert shown[0] == _offered(asked)[4]
    assert len(shown) == 3
    assert "Gannet" in shown, "the others are those that share most words with the question"
    assert state["filters"][0]["pruned"] == len(PLACES) - 3


async def test_by_words_alone(docs: Path) -> None:
    state, events, chats = await _run(docs, Steps(Reply()), search_filter="lexical")
    assert "filter" not in [chat.role for chat in chats]
    assert _shown(_results(chats, 1))[0] == "Gannet"
    assert state["filters"][0]["method"] == "lexical"
    assert events[0]["ok"], "nothing failed"


async def test_what_was_left_out_can_be_read(docs: Path) -> None:
    brain = Steps(Reply(text="1, 2"), ("crawl", {"sources": [7], "urls": []}))
    state, _, chats = await _run(docs, brain, mode="native")
    listed = re.search(r"\[7\] (\w+) Holm", _results(chats, 1).partition(LEFT_OUT)[2])
    assert listed is not None
    text = _results(chats, 2)
    assert f"[7] {listed[1]} Holm: " in text, "under the same number"
    assert f"Ada {listed[1]}son" in text
    read = next(source for source in state["sources"].values() if source["title"] == f"{listed[1]} Holm")
    assert read["read"]


async def test_what_was_left_out_is_no_step_of_a_small_model(docs: Path) -> None:
    _, _, chats = await _run(docs, Steps(Reply(text="1, 2")), mode="json")
    pattern = _pattern(chats, turn=1)
    assert "search" in pattern
    assert "read" not in pattern, "what is shown is whole, and what is not would be read one by one"


async def test_a_search_by_title_finds_it_whatever_the_model_chooses(docs: Path) -> None:
    hidden = Steps(Reply(text="1"), ("web_search", {"queries": ["who keeps Heron Holm"]}))
    _, _, chats = await _run(docs, hidden, search_keep=3, results_per_query=8, mode="json")
    assert "Heron" not in _shown(_results(chats, 1))
    assert "Ada Heronson" in _results(chats, 2)


async def test_what_was_left_out_can_be_found_again(docs: Path) -> None:
    """A later search shows what was pruned before, under the number that it has."""
    found = Steps(Reply(text="1, 2"), ("web_search", {"queries": ["Anvil Holm", "Heron Holm"]}))
    _, _, chats = await _run(docs, found, results_per_query=8)
    first, second = _results(chats, 1), _results(chats, 2)
    numbers = dict(re.findall(r"\[(\d)\] (\w+) Holm", first))
    assert len(numbers) == 8
    again = dict(re.findall(r"\[(\d)\] (\w+) Holm", second))
    assert again.items() <= numbers.items()


async def test_results_of_both_queries_count_once(docs: Path) -> None:
    state, _, chats = await _run(docs, Steps(Reply(text="1")), search_keep=1)
    (asked,) = [chat for chat in chats if chat.role == "filter"]
    assert len(_offered(asked)) == len(set(_offered(asked))) == 8, "the question was searched too"
    assert state["filters"][0]["results"] == 8
