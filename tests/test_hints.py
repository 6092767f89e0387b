"""Session hints: what the agent sends is what the engine reads, and nothing else gets in."""

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.hints import MAX_NUMBER, MAX_TEXT, AgentRole, SessionHints, parse_hints

_hints = st.builds(
    SessionHints,
    session_id=st.text(max_size=40),
    turn=st.integers(0, 10**6),
    role=st.sampled_from(get_args(AgentRole)),
    tool_seconds=st.none() | st.integers(0, 10**8).map(lambda milliseconds: milliseconds / 1000),
    output_tokens=st.none() | st.integers(0, 10**6),
    final=st.booleans(),
    supersedes=st.booleans(),
    tenant=st.text(max_size=40),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_WIRE = tuple(
    SessionHints(session_id="s", tool_seconds=1.0, output_tokens=1, tenant="t").to_xargs()
)  # every wire name


@given(_hints)
def test_round_trip(hints: SessionHints) -> None:
    parsed = parse_hints(json.loads(json.dumps(hints.to_xargs())))
    assert parsed.hints == hints
    assert parsed.rejected == ()


@given(_hints)
def test_the_wire_form_is_flat_scalars(hints: SessionHints) -> None:
    # vLLM takes str, int, float and lists of them; a bool would arrive as 0 or 1 by way of its float parsing.
    xargs = hints.to_xargs()
    assert set(xargs) <= set(_WIRE)
    assert all(type(value) in (str, int, float) for value in xargs.values())


def test_unset_hints_are_left_out() -> None:
    assert SessionHints().to_xargs() == {
        "agent_turn": 0,
        "agent_role": "think",
        "agent_final": 0,
        "agent_supersedes": 0,
    }


def test_seconds_are_rounded_to_milliseconds() -> None:
    assert SessionHints(tool_seconds=0.123456).to_xargs()["agent_tool_seconds"] == 0.123


@pytest.mark.parametrize("xargs", [None, {}, {"top_k": 3, "turn": 5, "final": True}])
def test_no_hints(xargs: Any) -> None:
    parsed = parse_hints(xargs)
    assert parsed.hints == SessionHints()
    assert parsed.rejected == ()


@pytest.mark.parametrize(
    ("wire", "bad"),
    [
        ("session_id", 7),
        ("session_id", None),
        ("session_id", ["s"]),
        ("session_id", "s" * (MAX_TEXT + 1)),
        ("agent_turn", True),
        ("agent_turn", -1),
        ("agent_turn", 1.0),
        ("agent_turn", "1"),
        ("agent_turn", MAX_NUMBER),
        ("agent_role", "Think"),
        ("agent_role", ""),
        ("agent_role", ["think"]),
        ("agent_role", {"think": 1}),
        ("agent_tool_seconds", True),
        ("agent_tool_seconds", math.nan),
        ("agent_tool_seconds", math.inf),
        ("agent_tool_seconds", -math.inf),
        ("agent_tool_seconds", -0.1),
        ("agent_tool_seconds", 10**400),
        ("agent_tool_seconds", 1e300),
        ("agent_tool_seconds", "2"),
        ("agent_output_tokens", False),
        ("agent_output_tokens", -5),
        ("agent_output_tokens", 2.5),
        ("agent_output_tokens", 2**63 - 1),
        ("agent_final", 2),
        ("agent_final", 1.0),
        ("agent_final", "true"),
        ("agent_final", None),
        ("agent_supersedes", -1),
        ("agent_supersedes", [1]),
        ("agent_tenant", 3),
        ("agent_tenant", {"name": "a"}),
        ("agent_tenant", "t" * 10_000_000),
    ],
)
def test_a_bad_hint_is_ignored_counted_and_harms_no_other(wire: str, bad: object) -> None:
    good = SessionHints(
        session_id="s", turn=2, role="progress", tool_seconds=1.5, output_tokens=9, final=True, tenant="t"
    )
    parsed = parse_hints({**good.to_xargs(), wire: bad})
    assert parsed.rejected == (wire,)
    without = good.to_xargs()
    without.pop(wire)
    assert parsed.hints == parse_hints(without).hints


def test_json_booleans_are_flags() -> None:
    parsed = parse_hints({"agent_final": True, "agent_supersedes": False})
    assert parsed.hints.final is True
    assert parsed.hints.supersedes is False
    assert parsed.rejected == ()


@given(st.dictionaries(st.sampled_from(_WIRE) | st.text(max_size=8), _json, max_size=8))
def test_never_raises_and_counts_each_known_name_once(xargs: dict[str, Any]) -> None:
    parsed = parse_hints(xargs)
    assert len(set(parsed.rejected)) == len(parsed.rejected)
    assert set(parsed.rejected) <= set(xargs) & set(_WIRE)
    again = parse_hints(parsed.hints.to_xargs())
    assert again.rejected == ()
