"""From timed requests to figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.sam.engine.figures import (
    Counters,
    Run,
    TimedRequest,
    as_json,
    make_rows,
    ratio,
    read_counters,
)
from agentinfer_lg.evals.sam.engine.plan import Spec


def request(
    session: str = "a", turn: int = 0, *, first: float = 0.5, last: float = 2.5, **more: object
) -> TimedRequest:
    base = TimedRequest(
        session=session,
        turn=turn,
        prompt_tokens=100 + turn,
        cached_tokens=64,
        output=(1, 2, 3, 4, 5),
        first=first,
        last=last,
        first_tokens=1,
        chunks=5,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def run(spec: Spec, *requests: TimedRequest, piece: int = 1, batch: int = 1, seconds: float = 10.0) -> Run:
    counters = Counters(drafts=4, drafted=20, accepted=5) if spec != "none" else Counters()
    return Run(spec=spec, piece=piece, batch=batch, seconds=seconds, requests=requests, counters=counters)


class TestRows:
    def test_latencies_are_per_token_after_the_first_arrival(self) -> None:
        two_at_once = request(first_tokens=2, chunks=2, last=3.5)  # 3 tokens in 3 seconds
        (row,) = make_rows([run("none", two_at_once)])
        assert row.decode_ms_per_token == pytest.approx(1000)
        assert row.llm_latency_s == 3.5
        assert row.ttft_s == 0.5
        assert row.tokens_per_s == 0.5
        assert row.tokens_per_step == 3.0
        assert row.ratio_to_none is None

    def test_a_variant_is_compared_request_by_request(self) -> None:
        base = run("none", request("a"), request("b"), request("a", 1))
        half = run("ours", *(request(s, t, last=1.5) for s, t in (("a", 0), ("a", 1), ("b", 0))), seconds=5.0)
        none, ours = make_rows([half, base])
        assert (none.spec, ours.spec) == ("none", "ours")
        assert ours.compared == 3
        assert ours.ratio_to_none is not None
        assert ours.ratio_to_none.value == pytest.approx(1.5 / 2.5)
        assert ours.decode_ratio is not None
        assert ours.decode_ratio.value == pytest.approx(0.5)
        assert ours.throughput_ratio == pytest.approx(2.0)
        assert (ours.accepted, ours.drafted, ours.hit_rate) == (5, 20, 0.25)

    def test_after_another_output_the_session_is_not_compared(self) -> None:
        base = run("none", *(request("a", turn) for turn in range(3)), request("b"))
        other = run(
            "ours", request("a"), request("a", 1, output=(1, 2, 9, 4, 5)), request("a", 2), request("b")
        )
        row = make_rows([base, other])[1]
        assert (row.requests, row.compared) == (4, 2)

    def test_the_first_token_is_compared_where_as_much_was_cached(self) -> None:
        base = run("none", request("a"), request("b"))
        other = run("ours", request("a", first=0.25), request("b", first=5.0, last=7.0, cached_tokens=0))
        row = make_rows([base, other])[1]
        assert row.ttft_ratio is not None
        assert row.ttft_ratio.value == pytest.approx(0.5)

    def test_a_variant_without_a_partner_has_no_ratio(self) -> None:
        (row,) = make_rows([run("ours", request())])
        assert row.ratio_to_none is row.throughput_ratio is None
        assert row.compared == 0

    def test_an_interrupted_round_is_compared_as_far_as_both_got(self) -> None:
        runs = [run("none", request()), run("none", request(), piece=2, seconds=90.0), run("ours", request())]
        row = make_rows(runs)[1]
        assert row.compared == 1
        assert row.throughput_ratio == pytest.approx(1.0)

    def test_batch_sizes_stay_apart_and_rows_are_flat_json(self) -> None:
        rows = make_rows(
            [run("none", request()), run("none", request(), batch=4), run("ours", request(), batch=4)]
        )
        assert [(row.batch, row.spec) for row in rows] == [(1, "none"), (4, "none"), (4, "ours")]
        told = json.loads(json.dumps(as_json(rows[2])))
        assert told["ratio_to_none"] == 1.0
        assert {"ratio_to_none_low", "ratio_to_none_high", "decode_ms_per_token", "ttft_s"} <= told.keys()

    def test_an_answer_of_one_token_has_no_decode_latency(self) -> None:
        (row,) = make_rows([run("none", request(output=(1,), last=0.5, chunks=1))])
        assert row.decode_ms_per_token is None
        assert row.tokens_per_step is None


class TestRatio:
    @given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=6))
    def test_the_interval_lies_within_what_single_sessions_show(
        self, seconds: list[tuple[float, float]]
    ) -> None:
        pairs = [
            (request(str(n), last=mine), request(str(n), last=other))
            for n, (mine, other) in enumerate(seconds)
        ]
        found = ratio(pairs, lambda each: each.last)
        assert found is not None
        single = [mine / other for mine, other in seconds]
        assert min(single) - 1e-9 <= found.low <= found.high <= max(single) + 1e-9
        assert min(single) - 1e-9 <= found.value <= max(single) + 1e-9

    def test_nothing_to_compare(self) -> None:
        assert ratio([], lambda each: each.last) is None


def test_counters_of_all_engines_are_added() -> None:
    text = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 7.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 3.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 20.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 900.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
"""
    counted = read_counters(text)
    assert counted == Counters(drafts=10, drafted=1500, accepted=20, preempted=2)
    assert counted.since(Counters(drafts=4)).drafts == 6
    assert read_counters("") == Counters()
