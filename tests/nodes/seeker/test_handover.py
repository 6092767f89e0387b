"""What the large model is shown when it takes over: steps word for word, and the sentences that match best."""

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agentinfer_lg.compression.view import Compaction
from agentinfer_lg.context import Context
from agentinfer_lg.llm.protocol import Action, Step
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.llm.transcript import step_message
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers, seeker_view, supersedes, visible_results
from agentinfer_lg.nodes.seeker.handover import (
    after_rescue,
    handover_in_force,
    handover_numbers,
    write_handover,
)
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import SeekerState

QUESTION = "When was Heron Point Light lit?"
FACT = "Heron Point Light was lit in 1871 by Ada Winter."
FILLER = " ".join(f"Row {row} of the oil store book is about trimming." for row in range(20))
NOTES = "Notes on results"
REFUSED = PROMPTS["en"].not_accepted.format(reason=PROMPTS["en"].not_supported)


def _state(*contents: str, **more: Any) -> SeekerState:
    """A seeker after one round per text, which searched for `lamp 0`, `lamp 1`, ..."""
    messages: list[AnyMessage] = [HumanMessage(f"Question: {QUESTION}", id="task")]
    for turn, content in enumerate(contents):
        search = Action(tool="web_search", arguments={"queries": [f"lamp {turn}"]})
        step = step_message(
            Step(thought=f"thought {turn}", actions=(search,)), message_id=f"s-{turn}", raw=None
        )
        call_id = f"s-{turn}-0"
        messages += [
            step,
            ToolMessage(content, tool_call_id=call_id, name="web_search", id=f"{call_id}-result"),
        ]
    task = {"id": "seeker-1", "question": QUESTION}
    state = {"messages": messages, "task": task, "language": "en", "tier": "small", **more}
    return cast(SeekerState, state)


def _result(number: int, text: str, title: str = "") -> str:
    return f"Results:\n[{number}] {title or f'Lamp {number}'}: {text}"


def _rescued(
    state: SeekerState, context: Context | None = None, *, turn: int = 9
) -> tuple[SeekerState, Compaction]:
    swap = write_handover(state, context or Context(), turn=turn)
    assert swap is not None
    return cast(SeekerState, {**state, "tier": "large", "rescue": swap}), swap


def _text(state: SeekerState, context: Context | None = None) -> str:
    return "\n".join(str(message.content) for message in seeker_view(state, context or Context()))


def test_the_sentence_that_matches_is_shown_and_the_results_are_not() -> None:
    state = _state(_result(1, f"{FILLER} {FACT} {FILLER}"), _result(2, FILLER))
    state, swap = _rescued(state, Context(rescue_tokens=40))
    text = _text(state, Context(rescue_tokens=40))
    assert swap["text"].startswith(f"{NOTES} [1]-[2]:")
    assert FACT in text
    assert FILLER not in text
    assert text.count("oil store") <= 2
    assert "recall" not in text.lower(), "nothing is listed for recall"


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["lamp", "Heron", "lit", "1871", "灯", "oil"]), max_size=60),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 300),
)
def test_the_budget_is_kept_and_the_steps_are_untouched(words: list[list[str]], tokens: int) -> None:
    context = Context(rescue_tokens=tokens)
    before = _state(*(_result(n, f"Lamp. {' '.join(each)}.") for n, each in enumerate(words, start=1)))
    state, swap = _rescued(before, context)
    lines = swap["text"].splitlines()
    titles = sum(estimate_tokens(line.rpartition(" (")[2]) for line in lines)
    assert estimate_tokens("\n".join(lines[1:])) <= tokens + titles + len(lines)
    view = seeker_view(state, context)
    assert [each for each in view if not isinstance(each, ToolMessage)] == [
        each for each in before["messages"] if not isinstance(each, ToolMessage)
    ]
    assert [each.id for each in view] == [each.id for each in before["messages"]], (
        "each call keeps its result"
    )


def test_the_latest_searches_count_too() -> None:
    texts = ["Nothing else is here.", "The lamp 1 stands alone.", "Grass is green."]
    state = _state(_result(1, " ".join(texts)), _result(2, FILLER))
    _, swap = _rescued(state, Context(rescue_tokens=12))
    assert "The lamp 1 stands alone." in swap["text"]


@pytest.mark.parametrize(
    ("contents", "knobs"),
    [
        ([_result(1, FACT)], {"compression": "off"}),
        ([_result(1, FACT)], {"rescue_tokens": 0}),
        ([], {}),
        (["Results:\nNothing was found."], {}),
        (["Results:\n[1] Lamp 1 (see above)"], {}),
    ],
    ids=["off", "0", "no rounds", "no results", "no text"],
)
def test_nothing_takes_the_place_of_the_results(contents: list[str], knobs: dict[str, Any]) -> None:
    assert write_handover(_state(*contents), Context(**knobs), turn=1) is None


@pytest.mark.parametrize("knobs", [{"compression": "off"}, {"rescue_tokens": 0}], ids=str)
def test_a_branch_without_it_sees_the_originals(knobs: dict[str, Any]) -> None:
    state, _ = _rescued(_state(_result(1, FILLER)))
    context = Context(**knobs)
    assert handover_in_force(state, context) is None
    assert seeker_view(state, context) == state["messages"]
    assert hidden_numbers(state, context) == set()
    assert not supersedes(state, context, "large")


def test_a_state_of_an_earlier_version() -> None:
    state = _state(_result(1, FILLER), tier="large")
    assert handover_in_force(state, Context()) is None
    assert not after_rescue(state)
    assert seeker_view(state, Context()) == state["messages"]


def test_only_the_large_model_sees_it() -> None:
    state, swap = _rescued(_state(_result(1, FILLER)))
    assert handover_in_force(state, Context()) == swap
    back = cast(SeekerState, {**state, "tier": "small"})
    assert handover_in_force(back, Context()) is None
    assert seeker_view(back, Context()) == back["messages"]
    assert not supersedes(back, Context(), "small")
    assert after_rescue(back)
    assert not after_rescue(state)


@pytest.mark.parametrize(
    "outcome", [REFUSED, "Results:\nThere is no document no-such-file.md.", "Results:\nNothing was found."]
)
def test_what_went_wrong_last_stays_as_it_is(outcome: str) -> None:
    state, swap = _rescued(_state(_result(1, f"{FACT} {FILLER}"), outcome))
    assert swap["upto"] == "s-0-0-result"
    assert seeker_view(state, Context())[-1].content == outcome


def test_what_comes_after_is_shown_whole() -> None:
    contents = [_result(1, FILLER), _result(2, FILLER)]
    state, swap = _rescued(_state(*contents))
    later = _state(*contents, _result(3, f"{FACT} {FILLER}"), tier="large", rescue=swap)
    before, after = seeker_view(state, Context()), seeker_view(later, Context())
    assert after[: len(before)] == before
    assert after[-1].content == _result(3, f"{FACT} {FILLER}")
    assert handover_numbers(later, swap) == hidden_numbers(later, Context()) == {1, 2}
    visible = visible_results(later, Context())
    assert FACT in visible
    assert visible.startswith(swap["text"])
    assert visible.count(FILLER) == 1


def test_results_that_notes_stand_for_are_looked_at_too() -> None:
    contents = [_result(1, f"{FILLER} {FACT}"), _result(2, FILLER)]
    notes = {"facts": [], "details": [], "leads": [], "dead_ends": [], "numbers": [1]}
    own = Compaction(
        ticket="t", upto="s-0-0-result", folded="", text="none", turn=1, tokens_before=0, tokens_after=0
    )
    state = _state(*contents, compression={"swap": own, "notes": notes})
    assert FACT not in _text(state)
    rescued, _ = _rescued(state)
    assert FACT in _text(rescued)
    assert hidden_numbers(state, Context()) == {1}
    assert hidden_numbers(rescued, Context()) == {1, 2}


def test_very_many_steps_are_folded() -> None:
    context = Context(max_reasoning_tokens=500)
    state, swap = _rescued(_state(*(_result(n, FILLER) for n in range(1, 61))), context)
    text = _text(state, context)
    assert swap["folded"]
    assert "thought 0\n" not in text
    assert "thought 59" in text
    assert "earlier steps. They searched for: lamp 0; lamp 1" in text
    steps = [message for message in seeker_view(state, context) if isinstance(message, AIMessage)]
    assert 0 < len(steps) < 60


def test_steps_that_left_the_small_models_context_do_not_come_back() -> None:
    own = Compaction(
        ticket="t",
        upto="s-1-0-result",
        folded="s-0-0-result",
        text="",
        turn=1,
        tokens_before=0,
        tokens_after=0,
    )
    contents = [_result(n, FILLER) for n in range(1, 4)]
    state, swap = _rescued(_state(*contents, compression={"swap": own}))
    assert swap["folded"] == own["folded"]
    assert "thought 0" not in _text(state)
    assert "Left out above: 1 earlier steps. They searched for: lamp 0" in swap["text"]


def test_a_step_supersedes_once_per_rescue() -> None:
    call = {"role": "think", "tier": "large", "turn": 4}
    state, _ = _rescued(_state(_result(1, FILLER), calls=[call]), turn=4)
    assert not supersedes(state, Context(), "large")
    again, _ = _rescued(state, turn=7)
    assert supersedes(again, Context(), "large"), "the last call was of another rescue"


def test_chinese() -> None:
    state = _state("结果：\n[1] 灯塔: 苍鹭角灯塔于1871年点亮。", language="zh")
    _, swap = _rescued(state)
    assert swap["text"].startswith("结果[1]的笔记")
    assert "1871年" in swap["text"]
