"""Looking at servers while something else runs."""

import asyncio

import pytest
from support.load_servers import WatchedServer, page

from agentinfer_lg.evals.common.metrics_page import ServerState, read_server_figures, read_server_state
from agentinfer_lg.evals.common.server_samples import Sample, Sampler


def test_several_engines_are_joined() -> None:
    text = """
# HELP vllm:num_requests_running Running.
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:prefix_cache_queries_total{engine="0"} 1e3
vllm:prefix_cache_hits_total{engine="0"} 400.0
vllm:num_preemptions_total{engine="0"} 2.0
agentinfer_sched_lambda{engine="0"} 0.5
agentinfer_sched_lambda{engine="1"} 1.5
agentinfer_sched_pressure{engine="0"} 0.9
"""
    assert read_server_state(text) == ServerState(
        running=5,
        waiting=1,
        kv_usage=0.75,
        cache_queries=1000,
        cache_hits=400,
        preemptions=2,
        price=1.5,
        pressure=0.9,
    )
    assert read_server_figures(text).hit_rate == pytest.approx(0.4)


def test_what_is_no_number_is_not_there() -> None:
    text = "vllm:num_requests_running many\nvllm:kv_cache_usage_perc NaN\nagentinfer_sched_lambda +Inf\n"
    assert read_server_state(text) == ServerState()


def watched(**values: float) -> WatchedServer:
    return WatchedServer("large", sched=False, patience=0, page_of=lambda look: page(running=look, **values))


async def test_samples_begin_before_and_end_after_the_block() -> None:
    with watched(price=2.0) as server:
        async with Sampler(urls={"large": server.url}, seconds=0.01) as sampler:
            assert len(sampler.samples) == 1
            await asyncio.to_thread(server.wait_for, lambda: server.looks >= 4)
            sampler.finished = 7
        samples = sampler.samples
    assert samples[0].finished == 0
    assert samples[-1].finished == 7
    assert [sample.servers["large"].running for sample in samples] == sorted(
        sample.servers["large"].running for sample in samples
    )
    times = [sample.time for sample in samples]
    assert times == sorted(times)
    assert samples[0].servers["large"].price == 2


async def test_a_server_that_is_not_there_is_a_gap() -> None:
    with watched() as server:
        gone = server.url
    with watched() as server:
        async with Sampler(urls={"small": gone, "large": server.url}, seconds=60.0) as sampler:
            pass
    assert [sorted(sample.servers) for sample in sampler.samples] == [["large"], ["large"]]


async def test_what_fails_in_the_block_is_told_and_not_looked_at_any_more() -> None:
    with watched() as server:
        with pytest.raises(ValueError, match="told"):
            async with Sampler(urls={"large": server.url}, seconds=60.0) as sampler:
                raise ValueError("told")
        assert len(sampler.samples) == server.looks == 1


def test_a_sample_survives_json() -> None:
    sample = Sample(time=1.5, finished=2, servers={"large": ServerState(running=1, price=0.5)})
    assert Sample.from_json(sample.to_json()) == sample
