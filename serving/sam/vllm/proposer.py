"""AgentSAM as a proposer of vLLM: `speculative_config={"method": "custom_class", "model": "<this class>", ...}`.

vLLM makes one proposer in each worker process. Only the one whose output the engine uses drafts; the others return
nothing. A proposer must never stop the engine: whatever goes wrong is logged once and counted, and the step goes on
without drafts.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from agentinfer_lg.errors import EngineError
from agentinfer_lg.serving.metrics import name_engine
from agentinfer_lg.serving.parts.log import join_engine_log
from agentinfer_lg.serving.parts.settings import part_settings
from agentinfer_lg.serving.sam.config import MAX_DRAFT_LIMIT, SamConfig
from agentinfer_lg.serving.sam.draft.assembly import drafter_figures, import_drafter, make_drafter
from agentinfer_lg.serving.sam.types import IntArray
from agentinfer_lg.serving.sam.vllm.cpu_sampling import repair_cpu_sampling
from agentinfer_lg.serving.sam.vllm.requests import RequestTracker
from agentinfer_lg.serving.sam.vllm.series import SamMetrics

_log = logging.getLogger(__name__)

_MOST_FAILURES = 8
"""Steps that may fail one after the other before drafting stops for good."""
_T = TypeVar("_T")


class AgentSAMProposer:
    """Drafts for the requests of one engine."""

    def __init__(self, vllm_config: Any, *, drafter: Any = None) -> None:  # Any: vLLM's types are not ours
        """Make the proposer; kernels are compiled and the memory is read in the background.

        Args:
            vllm_config: vLLM's configuration.
            drafter: Drafts come from here; None: from AgentSAM.

        Raises:
            ConfigurationError: Our part of the configuration is wrong.
        """
        join_engine_log()
        name_engine(vllm_config)
        config = _read_config(vllm_config)
        self._drafter = drafter
        self._tracker: RequestTracker | None = None
        self._metrics: SamMetrics | None = None
        self._runner: Any = None
        self._step: _Step | None = None
        self._failures = 0
        self._failures_in_a_row = 0
        repair_cpu_sampling()  # in every process that samples
        self._drafts = _is_output_rank(vllm_config.parallel_config)
        if self._drafts:
            self._guarded(lambda: self._open(config, vllm_config), "could not start")

    def _open(self, config: SamConfig, vllm_config: Any) -> None:
        self._metrics = SamMetrics(self.stats)
        atexit.register(self.close)
        if self._drafter is None:
            import_drafter()
        model = vllm_config.model_config
        self._tracker = RequestTracker(
            self._drafter,
            max_draft=config.max_draft,
            max_model_len=int(model.max_model_len),
            vocab_size=int(model.get_vocab_size()),
        )
        if self._drafter is None:
            # Compiling may take seconds on the first start; the server comes up meanwhile, without drafts at first.
            prepare = threading.Thread(
                target=self._prepare, args=(config, model), name="agentinfer-start", daemon=True
            )
            prepare.start()

    def _prepare(self, config: SamConfig, model: Any) -> None:
        try:
            drafter = make_drafter(config, model)
        except Exception:
            _log.exception("AgentSAM could not start; the engine goes on without its drafts")
            self._tracker = None
            self._failures += 1
            return
        if self._tracker is None:
            drafter.close()  # the process ends already
        else:
            self._tracker.drafter = self._drafter = drafter
            _log.info("AgentSAM drafts up to %d tokens per request and step", config.max_draft)

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load nothing: there is no draft model."""

    def dummy_run(self, *args: object, **kwargs: object) -> None:
        """Run nothing: nothing depends on shapes."""

    def bind_runner(self, runner: object) -> None:
        """Read request ids and the state of the batch from vLLM's model runner from now on."""
        self._runner = runner

    def begin_step(self, scheduler_output: object) -> None:
        """Take in which requests begin and end, before the engine computes a step; never raises."""
        self._step = None
        if self._tracker is not None:
            self._guarded(lambda: self._begin(scheduler_output), "could not take in a step")

    def propose(self, *args: object, **kwargs: object) -> list[list[int]]:
        """Return one draft per row of the batch, empty where there is none; never raises.

        Versions and devices call it with different arguments. Wanted are the tokens of this step, one list per row; the
        lengths of the rows and their token ids are taken from the model runner where they are not passed.
        """
        arrived = time.perf_counter()
        sampled = _sampled_tokens(args, kwargs)
        if self._tracker is None:
            return [[] for _ in sampled]
        drafts = self._guarded(
            lambda: self._propose(sampled, (*args, *kwargs.values()), arrived), "could not draft"
        )
        if drafts is None:
            return [[] for _ in sampled]
        self._failures_in_a_row = 0
        return drafts

    def stats(self) -> dict[str, float]:
        """Return cumulative counters and present sizes by name; empty where this process does not draft."""
        tracker, drafter = self._tracker, self._drafter
        if not self._drafts:
            return {}
        own = {"ready": float(tracker is not None and drafter is not None), "errors": self._failures}
        if tracker is not None:
            own |= {
                "resyncs": tracker.resyncs,
                "rejected_hints": tracker.rejected_hints,
                "requests": tracker.live,
            }
        return own if drafter is None else {**drafter_figures(drafter.stats()), **own}

    def close(self) -> None:
        """Finish what is open. Nothing depends on it: finished sessions are in the memory already."""
        drafter, self._tracker = self._drafter, None
        if self._metrics is not None:
            self._metrics.close()
        if drafter is not None and hasattr(drafter, "close"):
            self._drafter = None
            self._guarded(drafter.close, "could not close")

    def _begin(self, scheduler_output: Any) -> None:
        tracker = cast(RequestTracker, self._tracker)
        self._widen_runner(tracker)
        tracker.end(scheduler_output.finished_req_ids)
        for new in scheduler_output.scheduled_new_reqs:
            params = getattr(new, "sampling_params", None)
            tracker.begin(
                new.req_id,
                new.prompt_token_ids,
                xargs=getattr(params, "extra_args", None),
                max_tokens=getattr(params, "max_tokens", None),
            )
        self._step = _Step.of(scheduler_output)

    def _widen_runner(self, tracker: RequestTracker) -> None:
        """Let the runner ask us near the end of the context too.

        It would draft zeros for the whole batch as soon as one request comes within `max_draft` tokens of the end, because
        a draft model could not go on there. Our drafts are cut to fit. Its limit may change after its start.
        """
        limit = int(getattr(self._runner, "max_model_len", tracker.max_model_len))
        tracker.max_model_len = limit
        if getattr(self._runner, "effective_drafter_max_model_len", None) == limit:
            self._runner.effective_drafter_max_model_len = limit + MAX_DRAFT_LIMIT

    def _propose(
        self, sampled: Sequence[Sequence[int]], passed: Sequence[object], arrived: float
    ) -> list[list[int]]:
        tracker = cast(RequestTracker, self._tracker)
        batch = getattr(self._runner, "input_batch", None)
        lengths, tokens = _arrays(passed, batch)
        if batch is None:
            return tracker.propose(sampled, lengths, tokens)
        self._observe(arrived, int(lengths[: len(sampled)].sum()))
        return tracker.propose(sampled, lengths, tokens, requests=batch.req_ids[: len(sampled)])

    def _observe(self, arrived: float, context: int) -> None:
        """Tell the drafter what the step took, if it did nothing but decode."""
        step, self._step = self._step, None
        if step is not None and step.decodes and self._drafter is not None:
            self._drafter.observe(
                seconds=arrived - step.started,
                requests=step.requests,
                tokens=step.tokens,
                drafted=step.drafted,
                context=context,
            )

    def _guarded(self, work: Callable[[], _T], what: str) -> _T | None:
        """Run `work`; on an error log `what` once, give the drafter every request anew, and return None."""
        try:
            result = work()
        except Exception:
            self._failures += 1
            self._failures_in_a_row += 1
            if self._failures == 1:
                _log.exception("AgentSAM %s; the engine goes on without its drafts", what)
            if self._tracker is not None:
                self._tracker.restart_all()
                if self._failures_in_a_row >= _MOST_FAILURES:
                    self._tracker = None
                    _log.error(
                        "AgentSAM failed %d times in a row and is off until the next start", _MOST_FAILURES
                    )
            return None
        return result


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the engine, as scheduled."""

    started: float
    """Reading of `time.perf_counter`."""
    requests: int
    tokens: int
    drafted: int
    decodes: bool
    """Whether each request computes its last token and its draft, and nothing else."""

    @classmethod
    def of(cls, scheduler_output: Any) -> _Step:
        scheduled: Mapping[str, int] = scheduler_output.num_scheduled_tokens
        drafts: Mapping[str, Sequence[int]] = scheduler_output.scheduled_spec_decode_tokens
        resumed = getattr(scheduler_output.scheduled_cached_reqs, "resumed_req_ids", ())
        decodes = not scheduler_output.scheduled_new_reqs and not resumed and bool(scheduled)
        return cls(
            started=time.perf_counter(),
            requests=len(scheduled),
            tokens=sum(scheduled.values()),
            drafted=sum(len(draft) for draft in drafts.values()),
            decodes=decodes
            and all(count == 1 + len(drafts.get(name, ())) for name, count in scheduled.items()),
        )


def _read_config(vllm_config: Any) -> SamConfig:
    config = SamConfig.parse(part_settings(vllm_config, "sam", os.environ))
    most = getattr(getattr(vllm_config, "speculative_config", None), "num_speculative_tokens", None)
    return replace(config, max_draft=most) if most else config


def _is_output_rank(parallel: Any) -> bool:
    """Whether the engine uses the drafts of this process: the first tensor-parallel rank of the last stage.

    vLLM makes proposers on the last pipeline stage only.
    """
    ranks = int(parallel.tensor_parallel_size) * int(getattr(parallel, "prefill_context_parallel_size", 1))
    return int(getattr(parallel, "rank", 0) or 0) % ranks == 0


def _sampled_tokens(args: Sequence[object], kwargs: Mapping[str, object]) -> Sequence[Sequence[int]]:
    for name in ("sampled_token_ids", "valid_sampled_token_ids"):
        if name in kwargs:
            return cast("Sequence[Sequence[int]]", kwargs[name])
    found = next((value for value in args if isinstance(value, list)), [])
    return cast("Sequence[Sequence[int]]", found)


def _arrays(passed: Sequence[object], batch: Any) -> tuple[IntArray, IntArray]:
    """Return lengths and token ids of the rows, as passed or else from the runner's batch."""
    given = {value.ndim: value for value in passed if isinstance(value, np.ndarray)}
    lengths = given.get(1) if 1 in given or batch is None else batch.num_tokens_no_spec
    tokens = given.get(2) if 2 in given or batch is None else batch.token_ids_cpu
    if lengths is None or tokens is None:
        msg = "vLLM passed no token ids, and its model runner is not known"
        raise EngineError(msg)
    return lengths, tokens
