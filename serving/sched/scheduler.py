"""AgentSched inside vLLM: a scheduler that orders, holds back and keeps, on top of vLLM's own.

Nothing of vLLM's scheduling is copied or replaced. Before each step the queue of waiting requests is put in order, the
requests that should not start now are taken out of it, and cached blocks that are worth keeping are moved out of the way
of eviction; then vLLM schedules, and what was taken out is put back. Of the scheduler only `waiting` and `running` are
touched, which exist in every version since 0.23.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from agentinfer_lg.hints import SessionHints, parse_hints
from agentinfer_lg.serving.engine_log import join_engine_log
from agentinfer_lg.serving.sched.admission import Claim, admit, wait_bound
from agentinfer_lg.serving.sched.cache import BlockCache, CachedContext
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.keeper import Keeper
from agentinfer_lg.serving.sched.queue import ScoreQueue
from agentinfer_lg.serving.sched.retention import GapModel, RetentionSettings
from agentinfer_lg.serving.sched.score import ScoreWeights, request_score
from agentinfer_lg.serving.sched.series import SchedMetrics
from agentinfer_lg.serving.sched.sessions import SessionTable
from agentinfer_lg.serving.sched.shadow_price import Pressure, PriceSettings, ShadowPrice
from agentinfer_lg.serving.sched.speed import PrefillSpeed
from agentinfer_lg.serving.sched.tickets import Ticket

if TYPE_CHECKING:
    _Base: Any = object
else:
    _Base = object

__all__ = ("AgentSchedMixin", "make_scheduler")

_log = logging.getLogger(__name__)


class AgentSchedMixin(_Base):
    """Goes before vLLM's `Scheduler` or `AsyncScheduler` in the order of bases."""

    waiting: Any
    running: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        join_engine_log()
        additional = getattr(self.vllm_config, "additional_config", None)
        ours = additional.get("agentinfer") if isinstance(additional, dict) else None
        self._config = SchedConfig.parse(ours.get("sched") if isinstance(ours, dict) else None)
        config = self._config
        self.clock: Callable[[], float] = time.monotonic
        """Tells the time in seconds; may be replaced."""
        queue = ScoreQueue()
        queue.extend(self.waiting)
        self.waiting = queue
        self._tickets: dict[str, Ticket] = {}
        self._weights = ScoreWeights(
            hit=config.hit_weight, need=config.need_weight, wait=config.wait_weight
        )
        self._price = ShadowPrice(
            PriceSettings(
                max_price=config.lambda_max,
                gain=config.gain,
                proportional=config.proportional,
                integral=config.integral,
                smoothing=config.smoothing,
                hysteresis=config.hysteresis,
            )
        )
        self._cache = BlockCache(self.kv_cache_manager, block_size=self.block_size)
        settings = RetentionSettings(
            horizon_seconds=config.keep_seconds,
            default_gap_seconds=config.default_gap_seconds,
            max_gap_seconds=config.max_gap_seconds,
        )
        self._gaps = GapModel(
            default_seconds=config.default_gap_seconds, max_seconds=config.max_gap_seconds
        )
        self._sessions = SessionTable(self._gaps, max_gap_seconds=config.max_gap_seconds)
        self._keeper = Keeper(
            self._cache, self._sessions, self._gaps, settings, reserve_share=config.reserve_share
        )
        self._speed = PrefillSpeed()
        self._pressure = Pressure(free=0, hit=0, need=0)
        self._counts: dict[str, float] = dict.fromkeys(_COUNTERS, 0.0)
        self._held = 0
        self._bound = config.max_wait_seconds
        self._longest_wait = 0.0
        self._metrics = SchedMetrics(self.agentinfer_stats)

    def agentinfer_stats(self) -> dict[str, float]:
        """Return counters since the start and present values, by the names of `series.TABLE`."""
        return {
            **self._counts,
            "lambda": self._price.value,
            "pressure": self._pressure.ratio,
            "demand_blocks": self._pressure.need,
            "capacity_blocks": self._pressure.capacity,
            "hit_blocks": self._pressure.hit,
            "free_blocks": self._cache.free,
            "retained_blocks": self._keeper.kept_blocks,
            "refreshes": self._keeper.counts.refreshes,
            "demotions": self._keeper.counts.demotions,
            "waiting": len(self.waiting),
            "held": self._held,
            "max_wait_seconds": self._longest_wait,
            "wait_bound_seconds": self._bound,
            "known_sessions": len(self._sessions),
        }

    def add_request(self, request: Any) -> None:
        now = self.clock()
        parsed = parse_hints(getattr(request.sampling_params, "extra_args", None))
        self._counts["rejected_hints"] += len(parsed.rejected)
        session = self._sessions.begin(parsed.hints, tokens=request.num_tokens, now=now)
        self._tickets[request.request_id] = Ticket(request, parsed.hints, session, now)
        self._keeper.changed()
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        now = self.clock()
        self._speed.step_ended(now)
        held = self._plan(now) if self.waiting else []
        chunk = self._limit_chunks()
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.waiting.extend(held)
            if chunk is not None:
                self.scheduler_config.long_prefill_token_threshold = chunk
        self._note_step(output, now)
        return output

    def _limit_chunks(self) -> int | None:
        config = self.scheduler_config
        if not self._config.prefill_chunk_tokens or not self.waiting or config.long_prefill_token_threshold:
            return None
        before = int(config.long_prefill_token_threshold)
        config.long_prefill_token_threshold = self._config.prefill_chunk_tokens
        return before

    def _plan(self, now: float) -> list[Any]:
        tickets = [self._tickets[request.request_id] for request in self.waiting]
        cache, config = self._cache, self._config
        need = 0
        for ticket in tickets:
            ticket.hit = cache.hit_blocks(ticket.request)
            ticket.total = -(-ticket.request.num_tokens // cache.block_size)
            ticket.need = ticket.total - ticket.hit
            need += ticket.need
        hits = sum({id(ticket.session) if ticket.session else id(ticket): ticket.hit for ticket in tickets}.values())
        free = cache.free
        self._pressure = Pressure(free=free, hit=min(free, hits), need=need)
        price = self._price.update(self._pressure, now=now)
        share = price / config.lambda_max
        ordered = self._order(tickets, price, now)
        self._keeper.value_all(price=share, now=now)
        held: list[Any] = []
        if config.admission:
            spare = free - self._keeper.kept_blocks - min(free, hits)
            claims = [Claim(need_blocks=t.need, hit_blocks=t.hit, must=t.forced) for t in ordered]
            coming, long_running = self._coming_prefill()
            decisions = admit(
                claims,
                free_blocks=free - coming,
                spare_blocks=spare - coming,
                long_blocks=max(1, config.long_prefill_tokens // cache.block_size),
                long_running=long_running,
                idle=not self.running,
            )
            held = [t.request for t, may in zip(ordered, decisions, strict=True) if not may]
            ordered = [t for t, may in zip(ordered, decisions, strict=True) if may]
            self._counts["holds"] += len(held)
        self._held = len(held)
        self.waiting.replace(t.request for t in ordered)
        if config.retention != "off":
            self._keeper.protect(sum(t.need for t in ordered[:4]))
        return held

    def _coming_prefill(self) -> tuple[int, bool]:
        """Blocks that running prompts still need, and whether one of them is long."""
        coming, long_running = 0, False
        for request in self.running:
            left = request.num_tokens - request.num_computed_tokens
            if left > 1:
                coming += -(-left // self._cache.block_size)
                long_running = long_running or left > self._config.long_prefill_tokens
        return coming, long_running

    def _order(self, tickets: list[Ticket], price: float, now: float) -> list[Ticket]:
        config = self._config
        self._force_due(tickets, now)
        for ticket in tickets:
            ticket.score = request_score(
                hit_blocks=ticket.hit,
                need_blocks=ticket.need,
                prompt_blocks=ticket.total,
                wait_seconds=now - ticket.arrival,
                price=price,
                max_price=config.lambda_max,
                weights=self._weights,
            )
        if config.order == "fcfs":
            return sorted(tickets, key=lambda t: (not t.forced, t.arrival))
        return sorted(tickets, key=lambda t: (not t.forced, t.arrival if t.forced else -t.score))

    def _force_due(self, tickets: list[Ticket], now: float) -> None:
        """Let the oldest request come first as soon as it, or one behind it, would otherwise start too late."""
        speed = self._speed.tokens_per_second
        seconds_per_block = self._cache.block_size / speed if speed else 0.0
        backlog = sum(ticket.total for ticket in tickets) * seconds_per_block
        self._bound = max(self._config.max_wait_seconds, self._config.round_share * backlog)
        start = now
        oldest: Ticket | None = None
        for ticket in sorted(tickets, key=lambda t: t.arrival):
            if ticket.forced:
                start += ticket.need * seconds_per_block
                continue
            oldest = oldest or ticket
            if start >= ticket.arrival + self._bound:
                oldest.forced = True
                self._counts["forced_admissions"] += 1
                return
            start += ticket.need * seconds_per_block

    def _note_step(self, output: Any, now: float) -> None:
        self._counts["steps"] += 1
        prefill = 0
        for name, count in output.num_scheduled_tokens.items():
            if count > 1:
                prefill += count
        self._speed.step_began(prefill, now)
        for new in output.scheduled_new_reqs:
            ticket = self._tickets.get(new.req_id)
            if ticket is not None:
                self._counts["hit_tokens"] += new.num_computed_tokens
                self._counts["queried_tokens"] += ticket.request.num_tokens
                self._longest_wait = max(self._longest_wait, now - ticket.arrival)

    def _free_blocks(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        ticket = self._tickets.pop(request.request_id, None)
        context = self._cache.context_of(request)
        result = super()._free_blocks(request, *args, **kwargs)
        if ticket is None:
            return result
        now = self.clock()
        dead = CachedContext()
        if ticket.session is not None:
            dead = self._sessions.end(ticket.session, ticket.hints, context, now=now)
        if ticket.hints.final:
            dead = context
        if self._config.retention != "off":
            self._keeper.give_up(dead)
        self._keeper.changed()
        return result

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._counts["preemptions"] += 1
        ticket = self._tickets.get(request.request_id)
        if ticket is not None:
            ticket.forced = True
        return super()._preempt_request(request, *args, **kwargs)


_COUNTERS = (
    *("hit_tokens", "queried_tokens", "preemptions", "forced_admissions", "holds"),
    *("cut_draft_tokens", "rejected_hints", "overhead_seconds", "steps", "errors", "pinned_blocks"),
)


def make_scheduler(**parts: Any) -> Any:
    """Make the scheduler that fits the engine; the value of vLLM's `--scheduler-cls`.

    Args:
        parts: Keyword arguments with which vLLM makes its scheduler.
    """
    if parts["vllm_config"].scheduler_config.async_scheduling:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler as Base
    else:
        from vllm.v1.core.sched.scheduler import Scheduler as Base

    return type("AgentScheduler", (AgentSchedMixin, Base), {})(**parts)
