from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.datasets.agent_traces import TraceCall, TraceSession
from agentinfer_lg.evals.sched.replay.workload import (
    Call,
    Workload,
    WorkloadSession,
    build_workload,
    without_one_shots,
)

SIZE = 64


def session(name: str = "a", *, calls: int = 6, shared_tokens: int = 0, grow: int = 10) -> TraceSession:
    """Each prompt extends the one before by `grow` blocks and half a block."""
    return TraceSession(
        name=name,
        block_size=SIZE,
        shared_tokens=shared_tokens,
        calls=tuple(
            TraceCall(
                prompt_tokens=SIZE * grow * (index + 1) + 32,
                output_tokens=SIZE * 3,
                gap_seconds=5.0 * index,
                block_ids=np.arange(grow * (index + 1), dtype=np.int64),
            )
            for index in range(calls)
        ),
    )


def build(*sessions: TraceSession, **options: float) -> Workload:
    given = {"concurrency": 1, "sessions_per_place": 1, "one_shots": 0, **options}
    return build_workload(sessions or (session(),), name="test", **given)  # type: ignore[arg-type]


def everything(sessions: tuple[WorkloadSession, ...]) -> list[Call]:
    found = []
    for each in sessions:
        for call in each.calls:
            found += [call, *call.one_shots, *everything(call.children)]
    return found


def plain(workload: Workload) -> object:
    """Something that can be compared."""
    return [
        (each.name, [(call.prompt_tokens, call.gap_seconds, call.block_ids.tolist()) for call in each.calls])
        for each in workload.sessions
    ], workload.start_seconds


def test_the_same_seed_makes_the_same_workload() -> None:
    sessions = [session(str(number), calls=5 + number % 3) for number in range(12)]
    one, same, other = (build(*sessions, concurrency=4, one_shots=1.5, seed=seed) for seed in (1, 1, 2))
    assert plain(one) == plain(same)
    assert plain(one) != plain(other)


def test_outputs_are_found_again_in_the_next_prompt() -> None:
    workload = build()
    for before, after in zip(workload.sessions[0].calls, workload.sessions[0].calls[1:], strict=False):
        end = (before.prompt_tokens + before.output_tokens) // SIZE
        assert len(before.block_ids) == end
        assert before.block_ids.tolist() == after.block_ids[:end].tolist()
        assert after.known_tokens == end * SIZE


def test_an_output_that_the_next_prompt_leaves_out_is_nobodys() -> None:
    trace = session()
    changed = [*trace.calls]
    ids = np.concatenate([np.arange(4), np.arange(900, 930)]).astype(np.int64)
    changed[1] = TraceCall(prompt_tokens=SIZE * 34, output_tokens=1, gap_seconds=0, block_ids=ids)
    workload = build(TraceSession(name="b", block_size=SIZE, shared_tokens=0, calls=tuple(changed)))
    first, second = workload.sessions[0].calls[:2]
    assert set(first.block_ids[10:].tolist()).isdisjoint(second.block_ids.tolist())
    assert second.known_tokens == 4 * SIZE


def test_only_the_front_that_is_the_same_is_shared() -> None:
    traces = [session("a", shared_tokens=SIZE * 4), session("b", shared_tokens=SIZE * 4), session("c")]
    workload = build(*traces, concurrency=3)
    ids = {each.name[0]: [set(call.block_ids.tolist()) for call in each.calls] for each in workload.sessions}
    shared = ids["a"][0] & ids["b"][0]
    assert len(shared) == 4
    assert set.union(*ids["a"]) & set.union(*ids["b"]) == shared
    assert set.union(*ids["c"]).isdisjoint(set.union(*ids["a"], *ids["b"]))
    first = {each.name[0]: each.calls[0].known_tokens for each in workload.sessions}
    assert sorted([first["a"], first["b"]]) == [0, SIZE * 4]  # the second finds what the first had computed


def test_a_trace_that_is_used_again_is_another_session() -> None:
    workload = build(concurrency=2)
    one, two = workload.sessions
    assert one.name != two.name
    assert set(one.calls[-1].block_ids.tolist()).isdisjoint(two.calls[-1].block_ids.tolist())


def test_limits_hold() -> None:
    workload = build(session(calls=30), max_calls=7, max_gap_seconds=20, gap_scale=2)
    calls = workload.sessions[0].calls
    assert [call.gap_seconds for call in calls] == [0, 10, 20, 20, 20, 20, 20]
    assert [call.last for call in calls] == [False] * 6 + [True]
    workload = build(session(calls=30), max_tokens=SIZE * 60)
    assert len(workload.sessions[0].calls) == 5
    assert workload.sessions[0].calls[-1].last


def test_sub_agents_and_one_shots_share_nothing() -> None:
    trace = session()
    parent = TraceCall(
        prompt_tokens=64, output_tokens=1, gap_seconds=0, block_ids=np.arange(1), children=(session("sub"),)
    )
    nested = TraceSession(name="c", block_size=SIZE, shared_tokens=0, calls=(parent, *trace.calls))
    workload = build(nested, one_shots=3, seed=3)
    main = workload.sessions[0]
    assert len(main.calls[0].children) == 1
    shots = [call for call in everything(workload.sessions) if call.role == "qa"]
    assert shots
    assert all(shot.last for shot in shots)
    assert not main.calls[-1].one_shots
    spaces = [set(shot.block_ids.tolist()) for shot in shots]
    spaces += [
        set(main.calls[-1].block_ids.tolist()),
        set(main.calls[0].children[0].calls[-1].block_ids.tolist()),
    ]
    assert sum(map(len, spaces)) == len(set.union(*spaces))
    assert all(call.role != "qa" for call in everything(without_one_shots(workload).sessions))


def test_one_shots_are_as_many_as_was_asked_for() -> None:
    workload = build(*(session(str(number), calls=40) for number in range(40)), concurrency=40, one_shots=1.5)
    calls = [call for each in workload.sessions for call in each.calls if not call.last]
    assert sum(len(call.one_shots) for call in calls) / len(calls) == pytest.approx(1.5, rel=0.1)


@given(st.integers(1, 6), st.floats(1, 3), st.floats(0, 4), st.integers(0, 9), st.integers(4, 12))
def test_every_call_can_be_replayed(
    concurrency: int, per_place: float, one_shots: float, seed: int, max_calls: int
) -> None:
    traces = [
        session(str(number), calls=4 + number, shared_tokens=SIZE * (number % 3)) for number in range(5)
    ]
    workload = build(
        *traces,
        concurrency=concurrency,
        sessions_per_place=per_place,
        one_shots=one_shots,
        seed=seed,
        max_calls=max_calls,
    )
    assert workload.concurrency == concurrency
    assert len(workload.sessions) == max(concurrency, round(concurrency * per_place))
    assert len({each.name for each in workload.sessions}) == len(workload.sessions)
    for call in everything(workload.sessions):
        assert len(call.block_ids) == (call.prompt_tokens + call.output_tokens) // SIZE
        assert 0 <= call.known_tokens < call.prompt_tokens
        assert len(set(call.block_ids.tolist())) == len(call.block_ids)
