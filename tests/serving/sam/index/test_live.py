"""Which session a request belongs to."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sam.index.live import LiveSession, LiveSessions, common_prefix


def ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.int32)


def turn(sessions: LiveSessions, prompt: list[int], output: list[int], *, tenant: str = "") -> LiveSession:
    session = sessions.find(ids(prompt), tenant=tenant, name="")
    tip = session.take_in(ids(prompt))
    tip = session.automaton.extend(ids(output), tip=tip)
    session.keep(ids(prompt + output), prompt_length=len(prompt), tip=tip)
    sessions.register(session)
    return session


SYSTEM = list(range(300))
ONE, TWO = [*SYSTEM, *range(1000, 1100)], [*SYSTEM, *range(2000, 2100)]


def test_sessions_with_one_system_prompt_are_kept_apart() -> None:
    sessions = LiveSessions()
    one, two = turn(sessions, ONE, [1]), turn(sessions, TWO, [2])
    assert one is not two
    assert turn(sessions, [*ONE, 1, 5, 6], [7]) is one
    assert turn(sessions, [*TWO, 2, 5, 6], [7]) is two


def test_the_output_may_come_back_rewritten() -> None:
    """Chat templates render tool calls anew: only the earlier prompt is sure to come back."""
    sessions = LiveSessions()
    one = turn(sessions, ONE, [1, 2, 3])
    assert turn(sessions, [*ONE, 9, 9, 4], []) is one


def test_a_prompt_that_differs_within_the_earlier_one_is_another_session() -> None:
    sessions = LiveSessions()
    one = turn(sessions, ONE, [1])
    assert turn(sessions, [*ONE[:-1], 5, 5, 5], [1]) is not one


def test_tenants_do_not_share_sessions() -> None:
    sessions = LiveSessions()
    one = turn(sessions, ONE, [1], tenant="a")
    assert turn(sessions, [*ONE, 1, 2], [1], tenant="b") is not one


def test_short_prompts_are_not_looked_up() -> None:
    sessions = LiveSessions()
    assert turn(sessions, [1, 2, 3], [4]) is not turn(sessions, [1, 2, 3, 4, 5], [6])


def test_a_removed_session_is_not_found() -> None:
    sessions = LiveSessions()
    one = turn(sessions, ONE, [1])
    sessions.remove(one)
    assert len(sessions) == 0
    assert turn(sessions, [*ONE, 1, 2], [3]) is not one


def test_a_running_session_is_passed_over() -> None:
    sessions = LiveSessions()
    first = sessions.find(ids(ONE), tenant="", name="s")
    first.running = True
    second = sessions.find(ids(ONE), tenant="", name="s")
    assert second is not first
    first.running = False
    assert sessions.find(ids(ONE), tenant="", name="s") is first


def test_a_session_may_have_any_name() -> None:
    sessions = LiveSessions()
    assert sessions.find(ids(ONE), tenant="", name="~odd") is sessions.find(ids(TWO), tenant="", name="~odd")


@given(st.lists(st.integers(0, 2), max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_common_prefix(one: list[int], other: list[int]) -> None:
    size = common_prefix(ids(one), ids(other))
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]
