"""AgentSched inside vLLM: a scheduler that orders, holds back and keeps, on top of vLLM's own.

Nothing of vLLM's scheduling is copied or replaced. Before each step the queue of waiting requests is put in order, the
requests that should not start now are taken out of it, and cached blocks that are worth keeping are moved out of the way
of eviction; then vLLM schedules, and what was taken out is put back. Of the scheduler only `waiting` and `running` are
touched, and for the time of a step its limits of tokens; all exist in every version since 0.23.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from agentinfer_lg.hints import SessionHints, parse_hints
from agentinfer_lg.serving.metrics import name_engine
from agentinfer_lg.serving.parts.log import join_engine_log
from agentinfer_lg.serving.parts.settings import part_settings
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.admission import admit, wait_bound
from agentinfer_lg.serving.sched.policy.price import Pressure, PriceSettings, ShadowPrice
from agentinfer_lg.serving.sched.policy.retention import GapModel, RetentionSettings
from agentinfer_lg.serving.sched.policy.score import ScoreWeights, request_score
from agentinfer_lg.serving.sched.policy.sessions import SessionTable
from agentinfer_lg.serving.sched.policy.speed import PrefillSpeed
from agentinfer_lg.serving.sched.policy.step_limit import prefill_limit
from agentinfer_lg.serving.sched.policy.tuner import PriceTuner
from agentinfer_lg.serving.sched.vllm.cache import BlockCache, CachedContext, common_length
from agentinfer_lg.serving.sched.vllm.context_retention import Keeper
from agentinfer_lg.serving.sched.vllm.queue import ScoreQueue
from agentinfer_lg.serving.sched.vllm.request_info import Ticket
from agentinfer_lg.serving.sched.vllm.series import SchedMetrics

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

_log = logging.getLogger(__name__)

_LOOKS = 8
"""Waiting requests for which the cache is asked again in each plan, besides new ones."""
_BEGINNINGS = 1024
"""Different beginnings of prompts that are remembered."""
_FORCE_SECONDS = 0.1
"""Time between two looks at how long requests have waited."""
_SEVERAL = 2
"""Requests from which on one may delay another."""
_MOST_ERRORS = 100
"""Errors after which no step is planned any more."""
_COUNTERS = (
    *("hit_tokens", "queried_tokens", "preemptions", "forced_admissions", "holds"),
    *("superseded_blocks", "cut_draft_tokens", "rejected_hints", "overhead_seconds"),
    *("steps", "limited_steps", "errors"),
)


class AgentSchedMixin(_Base):  # type: ignore[misc]  # vLLM has no types for us
    """Goes before vLLM's `Scheduler` or `AsyncScheduler` in the order of bases."""

    waiting: Any
    running: list[Any]
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make vLLM's scheduler and take over its waiting queue.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        super().__init__(*args, **kwargs)
        join_engine_log()
        name_engine(self.vllm_config)
        self._config = config = _read_config(self.vllm_config)
        self.clock: Callable[[], float] = time.monotonic
        """Tells the time in seconds; may be replaced."""
        queue = ScoreQueue()
        queue.extend(self.waiting)
        self.waiting = queue
        self._tickets: dict[str, Ticket] = {}
        self._weights = ScoreWeights(hit=config.hit_weight, need=config.need_weight, wait=config.wait_weight)
        self._price = ShadowPrice(_price_settings(config))
        self._tuner = PriceTuner(self._price.settings) if config.tuning == "adaptive" else None
        self._cache = BlockCache(self.kv_cache_manager, block_size=self.block_size)
        self._gaps = GapModel(default_seconds=config.default_gap_seconds, max_seconds=config.max_gap_seconds)
        self._sessions = SessionTable(self._gaps, max_gap_seconds=config.max_gap_seconds)
        self._keeper = Keeper(
            self._cache,
            self._sessions,
            self._gaps,
            RetentionSettings(horizon_seconds=config.keep_seconds),
            reserve_share=config.reserve_share,
            pin_share=config.hard_pin_share if config.retention == "hard" else 0.0,
        )
        self._retains = config.retention != "off" and self._cache.simple
        self._speed = PrefillSpeed()
        self._pressure = Pressure(free=0, hit=0, need=0)
        self._counts: dict[str, float] = dict.fromkeys(_COUNTERS, 0.0)
        self._plans = 0
        self._next_plan = 0.0
        self._next_force = 0.0
        self._scored_price = math.nan
        self._coming = 0
        self._held: set[str] = set()
        self._hits = 0
        self._hits_of = -1  # waiting requests of which they were counted; -1: to be counted again
        self._beginnings: dict[Any, Any] = {}  # by the hash of its first block, who began so first
        self._bound = config.max_wait_seconds
        self._longest_wait = 0.0
        self._rejected_before = False
        self._metrics = SchedMetrics(self.agentinfer_stats)

    def agentinfer_stats(self) -> dict[str, float]:
        """Return counters since the start and present values, by the names of `series.TABLE`."""
        pressure = self._pressure
        return {
            **self._counts,
            "lambda": self._price.value,
            "pressure": pressure.ratio,
            "demand_blocks": pressure.need,
            "capacity_blocks": pressure.capacity,
            "hit_blocks": pressure.hit,
            "free_blocks": self._cache.free,
            "retained_blocks": self._keeper.kept_blocks,
            "pinned_blocks": self._keeper.pinned_blocks,
            "refreshes": self._keeper.refreshes,
            "demotions": self._keeper.demotions,
            "waiting": len(self.waiting),
            "held": len(self._held),
            "max_wait_seconds": self._longest_wait,
            "wait_bound_seconds": self._bound,
            "known_sessions": len(self._sessions),
        }

    def add_request(self, request: Any) -> None:
        """Take in a request, and note which session it belongs to."""
        if request.request_id not in self._tickets:  # another part of a prompt that comes in parts
            with self._surviving():
                self._tickets[request.request_id] = self._ticket(request)
        super().add_request(request)

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Let vLLM go on where AgentSched fails: the error is counted, and the first one is logged."""
        try:
            yield
        except Exception:
            self._note_error()

    def _note_error(self) -> None:
        self._counts["errors"] += 1
        if self._counts["errors"] == 1:
            _log.exception("AgentSched failed: vLLM goes on without its help here")

    def _ticket(self, request: Any) -> Ticket:
        now = self.clock()
        hints = self._read_hints(request)
        session = self._sessions.begin(hints, request.block_hashes, tokens=request.num_tokens, now=now)
        if session is not None:
            self._keeper.changed(session, price=self._price_share, now=now)
        self._next_plan = 0.0
        return Ticket(request, hints, session, now)

    def _read_hints(self, request: Any) -> SessionHints:
        parsed = parse_hints(getattr(request.sampling_params, "extra_args", None))
        if parsed.rejected:
            self._counts["rejected_hints"] += len(parsed.rejected)
            if not self._rejected_before:
                self._rejected_before = True
                _log.warning(
                    "AgentSched ignores session hints of a wrong type or size, here %s; more are only counted",
                    ", ".join(parsed.rejected),
                )
        return parsed.hints

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Plan, let vLLM schedule, and put back what was held back."""
        began = time.perf_counter()
        now = self.clock()
        self._speed.step_ended(now)
        held = self._planned(now)
        self._counts["overhead_seconds"] += time.perf_counter() - began
        try:
            with self._step_limits():
                output = super().schedule(*args, **kwargs)
        finally:
            self.waiting.extend(held)
        began = time.perf_counter()
        with self._surviving():
            self._note_step(output, now)
        self._counts["overhead_seconds"] += time.perf_counter() - began
        return output

    def _planned(self, now: float) -> list[Any]:
        """Put the queue in order and return what was taken out of it; after an error vLLM goes on alone."""
        if self._counts["errors"] >= _MOST_ERRORS:
            return []
        before = list(self.waiting)
        try:
            return self._plan(before, now)
        except Exception:
            self._note_error()
            self.waiting.replace(before)
            return []

    def _plan(self, waiting: list[Any], now: float) -> list[Any]:
        self._keep_room()
        if self._retains:
            self._keeper.value_all(price=self._price_share, now=now)
        if not waiting:
            self._held.clear()
            self._pressure = Pressure(free=self._cache.free, hit=0, need=0)
            self._price.update(self._pressure, now=now)
        elif self._is_due(now):
            began = time.perf_counter()
            self._order(waiting, now)
            if self._config.overhead_share:
                self._next_plan = now + (time.perf_counter() - began) / self._config.overhead_share
        held = [request for request in self.waiting if request.request_id in self._held]
        if held:
            self.waiting.replace(request for request in self.waiting if request.request_id not in self._held)
        if self._retains:
            self._keeper.protect(self._blocks_to_take())
        return held

    def _is_due(self, now: float) -> bool:
        return now >= self._next_plan or not self.running

    @property
    def _price_share(self) -> float:
        return self._price.value / self._price.settings.max_price

    def _order(self, waiting: list[Any], now: float) -> None:
        """Order the queue, and decide what is held back."""
        self._plans += 1
        tickets = [self._tickets.get(request.request_id) or self._adopt(request) for request in waiting]
        self._look(tickets)
        self._update_price(tickets, now)
        self._force_due(tickets, now)
        tickets.sort(key=_by_arrival if self._config.order == "fcfs" else _by_score)
        self._held = self._held_back(tickets) if self._config.admission else set()
        self.waiting.replace([ticket.request for ticket in tickets])

    def _adopt(self, request: Any) -> Ticket:
        """Make a ticket for a request that came past `add_request`."""
        ticket = self._tickets[request.request_id] = self._ticket(request)
        return ticket

    def _look(self, tickets: list[Ticket]) -> None:
        """Ask the cache about new requests, the first ones, and some of the others in turn."""
        least = sorted(ticket.looked for ticket in tickets)[: _LOOKS + 1][-1]
        looks = _LOOKS if self._cache.simple else 1
        for position, ticket in enumerate(tickets):
            if ticket.looked < 0 or position < 2 or (looks > 0 and ticket.looked <= least):
                looks -= ticket.looked >= 0 and position >= 2
                self._look_up(ticket)

    def _look_up(self, ticket: Ticket) -> None:
        hit = self._cache.hit_blocks(ticket.request)
        total = -(-ticket.request.num_tokens // self._cache.block_size)
        if ticket.looked < 0 or hit != ticket.hit_blocks or total != ticket.total_blocks:
            ticket.hit_blocks, ticket.total_blocks, ticket.need_blocks = hit, total, total - hit
            ticket.common_blocks = self._common_blocks(ticket)
            self._hits_of = -1
            ticket.score = math.nan
        ticket.looked = self._plans

    def _common_blocks(self, ticket: Ticket) -> int:
        """Of the cached blocks of a prompt, those that it has in common with the first one that began alike."""
        hashes = ticket.request.block_hashes
        if not ticket.hit_blocks:
            return 0
        if len(self._beginnings) > _BEGINNINGS:
            self._beginnings.clear()
        first = self._beginnings.setdefault(hashes[0], hashes)
        return common_length(hashes, first, ticket.hit_blocks)

    def _update_price(self, tickets: list[Ticket], now: float) -> None:
        """Bring the price up to date, and the scores that depend on it."""
        free = self._cache.free
        need = sum(ticket.need_blocks for ticket in tickets)
        if self._hits_of != len(tickets):
            self._hits, self._hits_of = _distinct_hits(tickets), len(tickets)
        self._pressure = Pressure(free=free, hit=min(free, self._hits), need=need)
        price = self._price.update(self._pressure, now=now)
        if self._tuner is not None:
            self._tuner.observe_price(price)
            self._price.settings = self._tuner.adjust(now=now)
        largest = self._price.settings.max_price
        changed = not abs(price - self._scored_price) <= 0.02 * largest
        if changed:
            self._scored_price = price
        for ticket in tickets:
            if changed or ticket.score != ticket.score:
                ticket.score = request_score(
                    hit_blocks=ticket.hit_blocks,
                    need_blocks=ticket.need_blocks,
                    prompt_blocks=ticket.total_blocks,
                    wait_seconds=-ticket.arrival,  # all waits grow alike: the order depends on arrivals only
                    price=self._scored_price,
                    max_price=largest,
                    weights=self._weights,
                )

    def _force_due(self, tickets: list[Ticket], now: float) -> None:
        """Let the oldest request come first as soon as it, or one behind it, would otherwise start too late."""
        if now < self._next_force:
            return
        speed = self._speed.tokens_per_second
        self._bound = wait_bound(
            max_wait_seconds=self._config.max_wait_seconds,
            round_share=self._config.round_share,
            context_tokens=self._sessions.tokens(now=now),
            cache_tokens=self._cache.total * self._cache.block_size,
            tokens_per_second=speed,
        )
        self._next_force = now + min(_FORCE_SECONDS, 0.01 * self._bound)
        seconds_per_block = self._cache.block_size / speed if speed else 0.0
        start = now
        oldest: Ticket | None = None
        for ticket in sorted(tickets, key=lambda ticket: ticket.arrival):
            latest = ticket.arrival + self._bound
            if not ticket.must:
                oldest = oldest or ticket
                if start >= latest and not oldest.must:
                    self._force(oldest)
                if now >= latest and not ticket.must:
                    self._force(ticket)
            start += ticket.need_blocks * seconds_per_block

    def _force(self, ticket: Ticket) -> None:
        ticket.must = True
        self._counts["forced_admissions"] += 1

    def _held_back(self, tickets: list[Ticket]) -> set[str]:
        """Return the ids of the requests that should not start now."""
        idle = not self.running
        long_running = self._coming_prefill()
        if self._keeper.pinned_blocks and (idle or tickets[0].must):
            self._keeper.unpin_for(self._coming + tickets[0].total_blocks + 1)
        free = self._cache.free
        spare = free - self._coming - self._keeper.kept_blocks - self._pressure.hit
        decisions = admit(
            tickets,
            free_blocks=free - self._coming,
            spare_blocks=spare,
            long_blocks=max(1, int(self._config.long_prefill_tokens) // self._cache.block_size),
            long_running=long_running,
            idle=idle,
        )
        held = {t.request.request_id for t, may in zip(tickets, decisions, strict=True) if not may}
        self._counts["holds"] += len(held - self._held)
        return held

    def _coming_prefill(self) -> bool:
        """Count the blocks that running prompts still need; return whether one of them is long."""
        self._coming, long_running = 0, False
        for request in self.running:
            left = _uncomputed(request)
            if left > 1:
                self._coming += -(-left // self._cache.block_size)
                long_running = long_running or left > self._config.long_prefill_tokens
        return long_running

    def _blocks_to_take(self) -> int:
        """Blocks that prompts which run or are about to start will take from the free ones.

        All of them count, not only those of the next step: then one context gives way as a whole, not several in part.
        """
        self._coming_prefill()
        first = (self._tickets.get(request.request_id) for request in itertools.islice(self.waiting, 4))
        starting = sum(ticket.need_blocks for ticket in first if ticket is not None)
        return self._coming + starting + len(self.running)

    def _keep_room(self) -> None:
        """When blocks run out, let the cheapest request be the one that vLLM preempts: the last of those that run."""
        if not self._config.victims or len(self.running) < 2:
            return
        if self._cache.free > 2 * len(self.running):
            return
        self.running.sort(key=lambda request: (request.num_preemptions == 0, -request.num_computed_tokens))

    @contextlib.contextmanager
    def _step_limits(self) -> Iterator[None]:
        """Keep long prompts from delaying others in the next step; afterwards vLLM has its own limits again."""
        config = self.scheduler_config
        tokens, chunk = self.max_num_scheduled_tokens, config.long_prefill_token_threshold
        with self._surviving():
            if self._may_split():
                self._limit_chunks()
                self._limit_step()
        try:
            yield
        finally:
            self.max_num_scheduled_tokens, config.long_prefill_token_threshold = tokens, chunk

    def _may_split(self) -> bool:
        """Whether prompts may be computed in smaller pieces than vLLM's.

        After a piece vLLM takes back what it drew for a request with a seed. A generator on a CPU cannot do that: the engine
        would die.
        """
        if self.vllm_config.device_config.device_type != "cpu":
            return True
        prompts = (*self.waiting, *(request for request in self.running if not _decodes(request)))
        return not any(_is_seeded(request) for request in prompts)

    def _limit_chunks(self) -> None:
        """Leave room beside long prompts for short ones that wait, where the operator has set no limit of his own."""
        tokens = int(self._config.prefill_chunk_tokens)
        config = self.scheduler_config
        if tokens and self._config.admission and self.waiting and not config.long_prefill_token_threshold:
            config.long_prefill_token_threshold = tokens

    def _limit_step(self) -> None:
        """Let a step with several requests end soon; those that decode come first, and get all they need."""
        limit = prefill_limit(
            tokens_per_second=self._speed.tokens_per_second,
            step_seconds=self._config.step_seconds,
            least=int(self._config.least_step_tokens),
        )
        decoding = [request for request in self.running if _decodes(request)]
        several = len(self.running) + len(self.waiting) >= _SEVERAL
        if limit is None or not several or (len(decoding) == len(self.running) and not self.waiting):
            return
        limit += sum(1 + len(request.spec_token_ids) for request in decoding)
        if limit < self.max_num_scheduled_tokens:
            self.running.sort(key=lambda request: not _decodes(request))
            self.max_num_scheduled_tokens = limit
            self._counts["limited_steps"] += 1

    def _note_step(self, output: Any, now: float) -> None:
        counts = self._counts
        counts["steps"] += 1
        scheduled = output.num_scheduled_tokens
        self._speed.step_began(sum(count for count in scheduled.values() if count > 1), now)
        for new in output.scheduled_new_reqs:
            ticket = self._tickets.get(new.req_id)
            if ticket is None or ticket.started:
                continue
            ticket.started = True
            counts["hit_tokens"] += new.num_computed_tokens
            counts["queried_tokens"] += ticket.request.num_tokens
            wait = now - ticket.arrival
            self._longest_wait = max(self._longest_wait, wait)
            if self._tuner is not None:
                known = ticket.session.tokens if ticket.session and ticket.session.ended else 0
                known = min(known, ticket.request.num_tokens - 1)
                self._tuner.observe_start(
                    known=known, hit=new.num_computed_tokens, wait_share=wait / self._bound
                )

    def update_draft_token_ids(self, draft_token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Shorten drafts while prompts wait for the step's tokens: each drafted one would take the place of theirs."""
        share = self._price_share
        if self._config.draft_cut and self._coming and share > 0.0:
            drafts = draft_token_ids.draft_token_ids
            kept = [draft[: math.ceil(len(draft) * (1.0 - share))] for draft in drafts]
            cut = sum(map(len, drafts)) - sum(map(len, kept))
            if cut:
                self._counts["cut_draft_tokens"] += cut
                draft_token_ids.draft_token_ids = kept
        return super().update_draft_token_ids(draft_token_ids, *args, **kwargs)

    def _free_blocks(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Note what a request that ends leaves in the cache; every request that ends comes through here."""
        ticket = self._tickets.pop(request.request_id, None)
        self._hits_of = -1
        self._held.discard(request.request_id)
        if ticket is None:
            return super()._free_blocks(request, *args, **kwargs)
        context = CachedContext()
        with self._surviving():
            context = self._cache.context_of(request)
            if ticket.session is not None:
                self._keeper.unpin(ticket.session)
        result = super()._free_blocks(request, *args, **kwargs)
        with self._surviving():
            self._leave(ticket, context)
        return result

    def _leave(self, ticket: Ticket, context: CachedContext) -> None:
        now = self.clock()
        request, session = ticket.request, ticket.session
        dead = context if ticket.hints.final else CachedContext()
        if session is not None:
            dead = self._sessions.end(
                session,
                ticket.hints,
                context,
                request.block_hashes,
                tokens=request.num_tokens,
                now=now,
            )
        if self._retains:
            given_up = self._keeper.give_up(dead)
            if ticket.hints.supersedes:
                self._counts["superseded_blocks"] += given_up
            if session is not None:
                self._keeper.pin(session, price=self._price_share, now=now)
                self._keeper.changed(session, price=self._price_share, now=now)
        self._next_plan = 0.0

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Count a preemption, and let the request come first afterwards."""
        self._counts["preemptions"] += 1
        ticket = self._tickets.get(request.request_id)
        if ticket is not None:
            ticket.must, ticket.looked = True, -1
        self._next_plan = 0.0
        return super()._preempt_request(request, *args, **kwargs)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Let go of what is pinned, or vLLM could not empty its cache."""
        self._keeper.unpin_all()
        for ticket in self._tickets.values():
            ticket.looked = -1
        return super().reset_prefix_cache(*args, **kwargs)

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """Publish the last figures."""
        self._metrics.close()
        return super().shutdown(*args, **kwargs)


def _is_seeded(request: Any) -> bool:
    return getattr(request.sampling_params, "seed", None) is not None


def _decodes(request: Any) -> bool:
    return _uncomputed(request) <= 1


def _uncomputed(request: Any) -> int:
    """Return the tokens of its text so far that are not in the cache, drafts aside."""
    return int(request.num_tokens - request.num_computed_tokens)


def _distinct_hits(tickets: list[Ticket]) -> int:
    """Count the cached blocks that waiting requests would use; what sessions have in common counts once.

    Of a session only one request counts: the others would use the same blocks.
    """
    own: dict[Any, int] = {}
    common: dict[Any, int] = {}
    for ticket in tickets:
        if ticket.hit_blocks:
            own[ticket.session or ticket] = ticket.hit_blocks - ticket.common_blocks
            beginning = ticket.request.block_hashes[0]
            common[beginning] = max(common.get(beginning, 0), ticket.common_blocks)
    return sum(own.values()) + sum(common.values())


def _by_score(ticket: Ticket) -> tuple[bool, float]:
    return (not ticket.must, ticket.arrival if ticket.must else -ticket.score)


def _by_arrival(ticket: Ticket) -> tuple[bool, float]:
    return (not ticket.must, ticket.arrival)


def _read_config(vllm_config: Any) -> SchedConfig:
    return SchedConfig.parse(part_settings(vllm_config, "sched", os.environ))


def _price_settings(config: SchedConfig) -> PriceSettings:
    return PriceSettings(
        max_price=config.lambda_max,
        gain=config.gain,
        proportional=config.proportional,
        integral=config.integral,
        smoothing=config.smoothing,
        hysteresis=config.hysteresis,
    )
