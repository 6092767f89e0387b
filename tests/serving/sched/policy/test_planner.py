"""The planner on a cache made of numbers: neither vLLM nor its blocks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.planner import Planner
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo


@dataclass(eq=False)
class FakeRequest:
    """A prompt of blocks that nobody else has."""

    request_id: str
    num_tokens: int
    hit: int = 0

    @property
    def block_hashes(self) -> list[tuple[str, int]]:
        return [(self.request_id, n) for n in range(self.num_tokens // 16)]


@dataclass
class FakeCache:
    """A cache that holds of each prompt what the prompt says."""

    free: int = 100
    total: int = 100
    block_size: int = 16
    simple: bool = True
    looks: list[str] = field(default_factory=list)

    def hit_blocks(self, request: FakeRequest) -> int:
        self.looks.append(request.request_id)
        return request.hit

    def refresh(self, context: CachedContext) -> int:
        return 0

    def demote(self, blocks: Sequence[Any], hashes: Sequence[Any]) -> int:
        return 0

    def pin(self, context: CachedContext) -> None: ...

    def unpin(self, context: CachedContext) -> None: ...

    def front(self, count: int) -> Iterator[Any]:
        return iter(())


def planner(cache: FakeCache | None = None, **settings: Any) -> Planner:
    return Planner(SchedConfig(overhead_share=0.0, **settings), cache or FakeCache())


def arrived(plan: Planner, *requests: FakeRequest, now: float = 0.0) -> list[RequestInfo]:
    return [plan.arrive(request, SessionHints(), now=now) for request in requests]


def names(infos: Sequence[RequestInfo]) -> list[str]:
    return [info.request.request_id for info in infos]


def test_of_two_prompts_the_cached_one_comes_first() -> None:
    plan = planner(admission=False)
    waiting = arrived(plan, FakeRequest("cold", 320), FakeRequest("warm", 320, hit=18))
    assert names(plan.order(waiting, [], now=0.1)) == ["warm", "cold"]


def test_in_the_order_of_arrival_where_the_operator_wants_it() -> None:
    plan = planner(admission=False, order="fcfs")
    first = arrived(plan, FakeRequest("cold", 320), now=0.0)
    second = arrived(plan, FakeRequest("warm", 320, hit=18), now=1.0)
    assert names(plan.order([*second, *first], [], now=1.1)) == ["cold", "warm"]


def test_who_has_waited_too_long_comes_first() -> None:
    plan = planner(admission=False, max_wait_seconds=5.0)
    old = arrived(plan, FakeRequest("cold", 1600), now=0.0)
    young = arrived(plan, FakeRequest("warm", 160, hit=9), now=5.5)
    assert names(plan.order([*old, *young], [], now=6.0)) == ["cold", "warm"]
    assert plan.stats()["forced_admissions"] == 1


def test_what_does_not_fit_is_held_back_and_counted_once() -> None:
    plan = planner(FakeCache(free=10, total=100))
    waiting = arrived(plan, FakeRequest("small", 64), FakeRequest("large", 1600))
    plan.order(waiting, [1], now=0.1)
    assert plan.held == {"large"}
    plan.order(waiting, [1], now=0.2)
    assert plan.stats()["holds"] == 1
    plan.gone("large")
    assert plan.held == set()


def test_the_price_follows_the_pressure() -> None:
    plan = planner(FakeCache(free=10, total=100), admission=False)
    waiting = arrived(plan, *(FakeRequest(f"r{n}", 800) for n in range(8)))
    for step in range(50):
        plan.order(waiting, [1], now=0.1 * step)
    high = plan.price_share
    assert high > 0.5
    for step in range(200):
        plan.rest(now=5.0 + 0.1 * step)
    assert plan.price_share < high / 2


def test_a_preempted_request_comes_first_and_is_looked_up_again() -> None:
    cache = FakeCache()
    plan = planner(cache, admission=False)
    waiting = arrived(plan, FakeRequest("warm", 160, hit=9), FakeRequest("cold", 1600))
    plan.order(waiting, [], now=0.1)
    plan.preempted(waiting[1])
    cache.looks.clear()
    assert names(plan.order(waiting, [], now=0.2)) == ["cold", "warm"]
    assert "cold" in cache.looks


def test_of_many_waiting_requests_few_are_looked_up_again_in_a_plan() -> None:
    cache = FakeCache()
    plan = planner(cache, admission=False)
    waiting = arrived(plan, *(FakeRequest(f"r{n}", 160) for n in range(40)))
    plan.order(waiting, [], now=0.1)
    assert len(cache.looks) == 40
    cache.looks.clear()
    plan.order(waiting, [], now=0.2)
    assert len(cache.looks) <= 10
    assert {"r0", "r1"} <= set(cache.looks), "those that are about to start"


def test_running_prompts_count_with_what_they_still_need() -> None:
    plan = planner()
    plan.protect([], [161, 1, 33])
    assert plan.coming == 11 + 3


def test_planning_pauses_in_proportion_to_the_time_it_took() -> None:
    plan = Planner(SchedConfig(overhead_share=1e-9), FakeCache())
    plan.order(arrived(plan, FakeRequest("a", 160)), [1], now=1.0)
    assert not plan.is_due(now=2.0, idle=False)
    assert plan.is_due(now=2.0, idle=True), "an idle engine has time"
    arrived(plan, FakeRequest("b", 160), now=2.0)
    assert plan.is_due(now=2.0, idle=False), "somebody new"


@pytest.mark.parametrize(
    "module", ["planner", "context_retention", "queue_order", "held_requests", "due_starts"]
)
def test_the_policy_is_plain_python(module: str) -> None:
    code = (
        f"import sys, agentinfer_lg.serving.sched.policy.{module}; "
        "print([m for m in ('vllm', 'torch', 'numpy', 'langgraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
