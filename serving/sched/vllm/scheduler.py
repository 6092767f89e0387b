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
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.planner import Planner
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo
from agentinfer_lg.serving.sched.vllm.cache import BlockCache
from agentinfer_lg.serving.sched.vllm.queue import ScoreQueue
from agentinfer_lg.serving.sched.vllm.series import SchedMetrics
from agentinfer_lg.serving.sched.vllm.step_limits import limit_chunks, limit_step, may_split, uncomputed

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

_log = logging.getLogger(__name__)

_FIRST = 4
"""Waiting requests that may start in the next step."""
_MOST_ERRORS = 100
"""Errors after which no step is planned any more."""
_COUNTERS = (
    *("hit_tokens", "queried_tokens", "preemptions"),
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
        self._infos: dict[str, RequestInfo] = {}
        self._cache = BlockCache(self.kv_cache_manager, block_size=self.block_size)
        self._planner = Planner(config, self._cache)
        self._counts: dict[str, float] = dict.fromkeys(_COUNTERS, 0.0)
        self._rejected_before = False
        self._metrics = SchedMetrics(self.agentinfer_stats)

    def agentinfer_stats(self) -> dict[str, float]:
        """Return counters since the start and present values, by the names of `series.TABLE`."""
        return {**self._counts, **self._planner.stats(), "waiting": len(self.waiting)}

    def add_request(self, request: Any) -> None:
        """Take in a request, and note which session it belongs to."""
        if request.request_id not in self._infos:  # another part of a prompt that comes in parts
            with self._surviving():
                self._take_in(request)
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

    def _take_in(self, request: Any) -> RequestInfo:
        info = self._planner.arrive(request, self._read_hints(request), now=self.clock())
        self._infos[request.request_id] = info
        return info

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
        self._planner.speed.step_ended(now)
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
        planner = self._planner
        self._keep_room()
        planner.value_contexts(now=now)
        running = [uncomputed(request) for request in self.running]
        if not waiting:
            planner.rest(now=now)
        elif planner.is_due(now=now, idle=not running):
            # A request may have come past `add_request`.
            infos = [self._infos.get(request.request_id) or self._take_in(request) for request in waiting]
            self.waiting.replace([info.request for info in planner.order(infos, running, now=now)])
        ids = planner.held
        held = [request for request in self.waiting if request.request_id in ids]
        if held:
            self.waiting.replace(request for request in self.waiting if request.request_id not in ids)
        first = (self._infos.get(request.request_id) for request in itertools.islice(self.waiting, _FIRST))
        planner.protect([info for info in first if info is not None], running)
        return held

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
            if may_split(self):
                limit_chunks(self, self._config)
                speed = self._planner.speed.tokens_per_second
                self._counts["limited_steps"] += limit_step(self, self._config, tokens_per_second=speed)
        try:
            yield
        finally:
            self.max_num_scheduled_tokens, config.long_prefill_token_threshold = tokens, chunk

    def _note_step(self, output: Any, now: float) -> None:
        counts = self._counts
        counts["steps"] += 1
        scheduled = output.num_scheduled_tokens
        self._planner.speed.step_began(sum(count for count in scheduled.values() if count > 1), now)
        for new in output.scheduled_new_reqs:
            info = self._infos.get(new.req_id)
            if info is None or info.started:
                continue
            info.started = True
            counts["hit_tokens"] += new.num_computed_tokens
            counts["queried_tokens"] += info.request.num_tokens
            self._planner.started(info, hit_tokens=new.num_computed_tokens, now=now)

    def update_draft_token_ids(self, draft_token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Shorten drafts while prompts wait for the step's tokens: each drafted one would take the place of theirs."""
        share = self._planner.price_share
        if self._config.draft_cut and self._planner.coming and share > 0.0:
            drafts = draft_token_ids.draft_token_ids
            kept = [draft[: math.ceil(len(draft) * (1.0 - share))] for draft in drafts]
            cut = sum(map(len, drafts)) - sum(map(len, kept))
            if cut:
                self._counts["cut_draft_tokens"] += cut
                draft_token_ids.draft_token_ids = kept
        return super().update_draft_token_ids(draft_token_ids, *args, **kwargs)

    def _free_blocks(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Note what a request that ends leaves in the cache; every request that ends comes through here."""
        info = self._infos.pop(request.request_id, None)
        self._planner.gone(request.request_id)
        if info is None:
            return super()._free_blocks(request, *args, **kwargs)
        context = CachedContext()
        with self._surviving():
            context = self._cache.context_of(request)
            if info.session is not None:
                self._planner.retention.pinned.unpin(info.session)
        result = super()._free_blocks(request, *args, **kwargs)
        with self._surviving():
            self._counts["superseded_blocks"] += self._planner.left(info, context, now=self.clock())
        return result

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Count a preemption, and let the request come first afterwards."""
        self._counts["preemptions"] += 1
        info = self._infos.get(request.request_id)
        if info is not None:
            self._planner.preempted(info)
        return super()._preempt_request(request, *args, **kwargs)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Let go of what is pinned, or vLLM could not empty its cache."""
        self._planner.retention.pinned.unpin_all()
        for info in self._infos.values():
            info.looked = -1
        return super().reset_prefix_cache(*args, **kwargs)

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """Publish the last figures."""
        self._metrics.close()
        return super().shutdown(*args, **kwargs)


def _read_config(vllm_config: Any) -> SchedConfig:
    return SchedConfig.parse(part_settings(vllm_config, "sched", os.environ))
