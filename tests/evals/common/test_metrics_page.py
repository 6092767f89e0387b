"""What a vLLM server counts."""

import pytest
from support.fake_openai import FakeOpenAI, PageServer

from agentinfer_lg.evals.common.metrics_page import (
    ServerFigures,
    fetch_server_figures,
    read_sched_series,
    read_server_figures,
    read_server_state,
)

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="large"} 3.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="large"} 1200.0
vllm:prompt_tokens_total{engine="1",model_name="large"} 800.0
vllm:prompt_tokens_created{engine="0",model_name="large"} 1.7e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="large",source="local"} 999.0
vllm:generation_tokens_total{engine="0",model_name="large"} 300.0
vllm:generation_tokens_total{engine="1",model_name="large"} 100.0
vllm:prefix_cache_queries_total{engine="0",model_name="large"} 1200.0
vllm:prefix_cache_queries_total{engine="1",model_name="large"} 800.0
vllm:prefix_cache_hits_total{engine="0",model_name="large"} 500.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="large"} 77.0
vllm:num_preemptions_total{engine="0",model_name="large"} 2.0
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="large"} 4.0
vllm:request_queue_time_seconds_count{engine="0",model_name="large"} 4.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="large"} 1.5e-01
vllm:request_prefill_time_seconds_sum{engine="0",model_name="large"} 2.5
vllm:request_decode_time_seconds_sum{engine="0",model_name="large"} 9.0
vllm:spec_decode_num_drafts_total{engine="0",model_name="large"} 50.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="large"} 400.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="large"} 100.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="large",position="0"} 40.0
process_cpu_seconds_total 12.5
"""


def test_a_page_is_read_and_engines_are_added_up() -> None:
    assert read_server_figures(PAGE) == ServerFigures(
        requests=4,
        prompt_tokens=2000,
        generated_tokens=400,
        cache_queries=2000,
        cache_hits=500,
        preemptions=2,
        queue_seconds=0.15,
        prefill_seconds=2.5,
        decode_seconds=9,
        drafted_tokens=400,
        accepted_tokens=100,
    )


def test_what_is_not_on_the_page_counts_as_nothing() -> None:
    assert read_server_figures("# TYPE vllm:prompt_tokens_total counter\n") == ServerFigures()


@pytest.mark.parametrize(
    "line", ["vllm:prompt_tokens_total{engine= 5", "vllm:prompt_tokens_total many", "{}", "\x00"]
)
def test_a_line_that_cannot_be_read_is_left_out(line: str) -> None:
    assert read_server_figures(f"{line}\n{PAGE}{line}") == read_server_figures(PAGE)


def test_values_that_are_no_numbers_are_left_out() -> None:
    page = 'agentinfer_sched_lambda{engine="0"} NaN\nagentinfer_sched_steps_total{engine="0"} 7.0\n'
    assert read_sched_series(page) == {"steps": 7.0}
    assert read_server_state(page).price is None


def test_shares() -> None:
    figures = read_server_figures(PAGE)
    assert figures.hit_rate == 0.25
    assert figures.ote == pytest.approx(
        400 / 300
    )  # 400 tokens in 300 passes: 100 came along as accepted drafts
    assert figures.shr == 0.25


def test_without_speculation_a_pass_is_a_token() -> None:
    figures = ServerFigures(generated_tokens=10)
    assert (figures.ote, figures.shr, figures.hit_rate) == (1.0, None, 0.0)
    assert ServerFigures().ote is None


def test_what_came_on_top() -> None:
    now = read_server_figures(PAGE)
    before = ServerFigures(generated_tokens=100, accepted_tokens=50, queue_seconds=0.05)
    since = now.since(before)
    assert (since.generated_tokens, since.accepted_tokens, since.prompt_tokens) == (300, 50, 2000)
    assert since.queue_seconds == pytest.approx(0.1)
    assert now.since(now) == ServerFigures()


async def test_a_server_is_asked_beside_its_api() -> None:
    with PageServer() as pages:
        pages.add("/metrics", PAGE, content_type="text/plain")
        assert await fetch_server_figures(f"{pages.url}/v1") == read_server_figures(PAGE)
        assert await fetch_server_figures(f"{pages.url}/v1/") == read_server_figures(PAGE)


async def test_a_server_without_the_page_has_no_figures() -> None:
    with PageServer() as pages:
        assert await fetch_server_figures(f"{pages.url}/v1") is None
        pages.add("/metrics", "go_goroutines 8\n", content_type="text/plain")
        assert await fetch_server_figures(f"{pages.url}/v1") is None
    with FakeOpenAI(owned_by="somebody") as server:
        url = server.url
    assert await fetch_server_figures(url) is None  # it is gone
