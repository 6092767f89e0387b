"""Recorded sessions, shrunk."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.agent_traces import TraceCall, TraceSession
from agentinfer_lg.evals.sched.engine.workload import Scale, shrunk_workload, tokens_between
from agentinfer_lg.evals.sched.replay.workload import Call, Workload


def recorded(count: int = 12, calls: int = 8) -> list[TraceSession]:
    return [
        TraceSession(
            name=f"trace_{number}",
            block_size=64,
            shared_tokens=12_000,
            calls=tuple(
                TraceCall(
                    prompt_tokens=40_000 + number * 5_000 + index * 3_000,
                    output_tokens=200 + 40 * index,
                    gap_seconds=float(2 + (number * 7 + index * 5) % 40),
                    block_ids=np.arange(1),
                )
                for index in range(calls)
            ),
        )
        for number in range(count)
    ]


def made(*, seed: int = 0, scale: Scale | None = None) -> Workload:
    return shrunk_workload(recorded(), scale=scale or Scale(), concurrency=4, count=6, seed=seed)


def plain(workload: Workload) -> list[tuple[object, ...]]:
    return [
        (session.name, call.prompt_tokens, call.output_tokens, call.gap_seconds, call.block_ids.tolist())
        for session in workload.sessions
        for call in session.calls
    ]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), longest=st.integers(1200, 6000), one_shots=st.floats(0, 3))
def test_sessions_are_append_only_and_within_the_limits(seed: int, longest: int, one_shots: float) -> None:
    scale = Scale(max_tokens=longest, one_shots=one_shots)
    workload = made(seed=seed, scale=scale)
    assert workload.concurrency == 4
    assert len(workload.sessions) == 6
    for session in workload.sessions:
        assert session.calls[-1].last
        assert not session.calls[-1].one_shots
        for before, call in itertools.pairwise(session.calls):
            assert not before.last
            assert call.prompt_tokens > before.prompt_tokens + before.output_tokens
            assert call.block_ids[: len(before.block_ids)].tolist() == before.block_ids.tolist()
            assert scale.gaps[0] <= call.gap_seconds <= scale.gaps[1]
        for call in session.calls:
            assert call.prompt_tokens + call.output_tokens <= longest
            assert len(call.block_ids) == (call.prompt_tokens + call.output_tokens) // scale.block_size
            assert call.known_tokens < call.prompt_tokens


def test_only_the_system_prompt_is_shared() -> None:
    workload = made(scale=Scale(shared_tokens=256, one_shots=2.0))
    calls = [session.calls[-1] for session in workload.sessions]
    shots = [shot for session in workload.sessions for call in session.calls for shot in call.one_shots]
    assert shots
    common = set(calls[0].block_ids.tolist()).intersection(*(call.block_ids.tolist() for call in calls[1:]))
    assert len(common) == 256 // 32
    own = [number for call in [*calls, *shots] for number in call.block_ids.tolist() if number not in common]
    assert len(set(own)) == len(own)


def test_the_same_seed_makes_the_same_workload() -> None:
    assert plain(made(seed=3)) == plain(made(seed=3))
    assert plain(made(seed=3)) != plain(made(seed=4))


def test_longer_recorded_gaps_stay_longer() -> None:
    def gaps(calls: tuple[Call, ...]) -> list[float]:
        return [call.gap_seconds for call in calls[1:]]

    session = made().sessions[0]
    source = next(each for each in recorded() if session.name.startswith(f"{each.name}-"))
    order = np.argsort([call.gap_seconds for call in source.calls[1:]], kind="stable")
    scaled = np.array(gaps(session.calls))[order]
    assert (np.diff(scaled) >= 0).all()


def test_too_few_sessions_are_refused() -> None:
    with pytest.raises(UserInputError, match="only 3 were recorded"):
        shrunk_workload(recorded(3), scale=Scale(), concurrency=2, count=4, seed=0)


@given(cuts=st.lists(st.integers(0, 300), min_size=2, max_size=5).map(sorted))
def test_tokens_do_not_depend_on_how_they_are_asked_for(cuts: list[int]) -> None:
    whole = tokens_between("a", cuts[0], cuts[-1], shared=100, salt="x")
    parts = [
        token
        for start, end in itertools.pairwise(cuts)
        for token in tokens_between("a", start, end, shared=100, salt="x")
    ]
    assert whole == parts
    assert len(whole) == cuts[-1] - cuts[0]


def test_sessions_share_the_first_tokens_only() -> None:
    one, other = (tokens_between(name, 0, 200, shared=100, salt="x") for name in "ab")
    assert one[:100] == other[:100]
    assert one[100:] != other[100:]
    assert tokens_between("a", 0, 100, shared=100, salt="y") != one[:100]
