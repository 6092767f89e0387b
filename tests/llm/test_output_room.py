"""Room for an answer: more after a cut, then a request to be brief, and an end to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.output_room import (
    OutputRoom,
    ample_room,
    looks_like_thinking,
    more_room,
    repeats_itself,
)


def test_a_cut_answer_gets_more_room_then_is_asked_to_be_brief() -> None:
    first = OutputRoom(visible=100)
    second = more_room(first, in_thought=False, hopeless=False, left=None)
    assert second is not None
    assert (second.visible, second.brief) == (400, False)
    third = more_room(second, in_thought=False, hopeless=False, left=None)
    assert third is not None
    assert third.brief
    assert more_room(third, in_thought=False, hopeless=False, left=None) is None


def test_thoughts_get_room_on_top_of_what_is_visible() -> None:
    second = more_room(OutputRoom(visible=100), in_thought=True, hopeless=False, left=None)
    assert second is not None
    assert second.visible == 100
    assert second.thoughts >= 4000


def test_the_window_is_the_limit() -> None:
    second = more_room(OutputRoom(visible=100), in_thought=True, hopeless=False, left=500)
    assert second is not None
    assert second.tokens == 500
    third = more_room(second, in_thought=True, hopeless=False, left=500)
    assert third is not None
    assert third.brief, "there is no more room"


def test_a_loop_gets_no_more_room() -> None:
    assert repeats_itself("the tide is high and " * 10)
    assert not repeats_itself(
        "The tide is high. The moon is full. The boats are out at sea, and nobody is at home."
    )
    assert more_room(OutputRoom(visible=100), in_thought=False, hopeless=True, left=None) is None


@given(
    st.integers(1, 5000),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.none() | st.integers(16, 50_000),
)
def test_it_ends_and_never_leaves_the_window(visible: int, cuts: list[bool], left: int | None) -> None:
    room: OutputRoom | None = OutputRoom(visible=visible)
    for count, in_thought in enumerate(cuts):
        assert room is not None
        room = more_room(room, in_thought=in_thought, hopeless=False, left=left)
        if room is None:
            break
        assert left is None or room.brief or room.tokens <= max(left, visible)
        assert count < 6
    assert room is None


def test_ample_room_is_given_once() -> None:
    room = ample_room(OutputRoom(visible=100), left=None)
    assert room is not None
    assert ample_room(room, left=None) is None


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("Okay, let me look at the passages.", True),
        ("We need to find the depth.", True),
        ("好的，我来看看", True),
        ("The user asks for a depth", True),
        ("The reservoir is 42 metres deep.", False),
        ("42 metres", False),
        ("Letterman was born in 1947.", False),
    ],
)
def test_thoughts_without_markers_begin_like_thoughts(text: str, thinking: bool) -> None:
    assert looks_like_thinking(text) is thinking
