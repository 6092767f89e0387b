"""From timed requests to figures; pure.

Variants are compared request by request: the same prompt, the same output. Where outputs differ (sums in another
order break a tie in another way) a request counts for its variant's own figures, but is left out of the ratios.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from agentinfer_lg.evals.common.bootstrap import Interval, bootstrap, quotient, summed
from agentinfer_lg.evals.common.metrics_page import summed_series
from agentinfer_lg.evals.sam.engine.plan import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    """One request as its client saw it; times in seconds since it was sent."""

    session: str
    turn: int
    prompt_tokens: int
    cached_tokens: int
    output: tuple[int, ...]
    first: float
    """When the first token arrived."""
    last: float
    """When the last token arrived."""
    first_tokens: int
    """Tokens that arrived at `first`; several may come at once."""
    chunks: int
    """Number of arrivals: about the number of decode steps, and one."""

    @property
    def decode_seconds(self) -> float:
        """Seconds between the first and the last token."""
        return self.last - self.first

    @property
    def decode_tokens(self) -> int:
        """Tokens that arrived after the first ones."""
        return len(self.output) - self.first_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a server counted, since its start or between two looks."""

    drafts: float = 0.0
    drafted: float = 0.0
    accepted: float = 0.0
    preempted: float = 0.0

    def since(self, earlier: Counters) -> Counters:
        """Return what came on top of `earlier`."""
        return Counters(
            drafts=self.drafts - earlier.drafts,
            drafted=self.drafted - earlier.drafted,
            accepted=self.accepted - earlier.accepted,
            preempted=self.preempted - earlier.preempted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One piece of work on one server."""

    spec: Spec
    piece: int
    batch: int
    seconds: float
    requests: tuple[TimedRequest, ...]
    counters: Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """Figures of one variant at one batch size. Latencies: the median over requests, unless it says mean."""

    spec: Spec
    batch: int
    sessions: int
    requests: int
    compared: int
    """Requests with the same prompt and output as without speculation; the ratios are over these."""
    output_tokens: int
    decode_ms_per_token: float | None
    """Time from the first token to the last, per token after the first."""
    decode_ms_per_token_mean: float | None
    llm_latency_s: float
    """Mean time from sending a request to its last token."""
    llm_latency_s_median: float
    ttft_s: float
    """Time to the first token."""
    tokens_per_s: float
    """Output tokens of all requests, per second of wall time."""
    drafted: int
    accepted: int
    hit_rate: float | None
    """Accepted per drafted."""
    tokens_per_step: float | None
    """Tokens per arrival after the first."""
    preempted: int
    ratio_to_none: Interval | None
    """Of the LLM latency."""
    decode_ratio: Interval | None
    ttft_ratio: Interval | None
    """Over requests with as many cached tokens as without speculation."""
    throughput_ratio: float | None
    """Output tokens per second, relative to no speculation."""


_METRICS = {
    "vllm:spec_decode_num_drafts_total": "drafts",
    "vllm:spec_decode_num_draft_tokens_total": "drafted",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted",
    "vllm:num_preemptions_total": "preempted",
}


def read_counters(metrics: str) -> Counters:
    """Read the counters from what a server tells at `/metrics`; those of several engines are added."""
    return Counters(**summed_series(metrics, _METRICS))


def make_rows(runs: Iterable[Run]) -> list[EngineRow]:
    """Return one row per batch size and variant, in the order in which they were first run, `none` first."""
    cells: dict[int, dict[Spec, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run.batch][run.spec].append(run)
    return [
        _row(spec, batch, cell[spec], cell.get("none", []))
        for batch, cell in cells.items()
        for spec in sorted(cell, key=lambda each: each != "none")
    ]


def _row(spec: Spec, batch: int, own: Sequence[Run], base: Sequence[Run]) -> EngineRow:
    requests = [request for run in own for request in run.requests]
    decoded = [request for request in requests if request.decode_tokens > 0]
    per_token = [request.decode_seconds / request.decode_tokens * 1000 for request in decoded]
    drafted = sum(run.counters.drafted for run in own)
    accepted = sum(run.counters.accepted for run in own)
    later = sum(request.chunks - 1 for request in decoded)
    pairs = [] if spec == "none" else _pairs(own, base)
    seen = {run.piece for run in base}
    throughput = _throughput([run for run in own if run.piece in seen])
    base_throughput = _throughput([run for run in base if run.piece in {each.piece for each in own}])
    return EngineRow(
        spec=spec,
        batch=batch,
        sessions=len({(run.piece, request.session) for run in own for request in run.requests}),
        requests=len(requests),
        compared=len(requests) if spec == "none" else len(pairs),
        output_tokens=sum(len(request.output) for request in requests),
        decode_ms_per_token=median(per_token) if per_token else None,
        decode_ms_per_token_mean=fmean(per_token) if per_token else None,
        llm_latency_s=fmean(request.last for request in requests),
        llm_latency_s_median=median(request.last for request in requests),
        ttft_s=median(request.first for request in requests),
        tokens_per_s=_throughput(own) or 0.0,
        drafted=int(drafted),
        accepted=int(accepted),
        hit_rate=accepted / drafted if drafted else None,
        tokens_per_step=sum(request.decode_tokens for request in decoded) / later if later else None,
        preempted=int(sum(run.counters.preempted for run in own)),
        ratio_to_none=ratio(pairs, lambda request: request.last),
        decode_ratio=ratio(pairs, lambda request: request.decode_seconds),
        ttft_ratio=ratio(
            [(mine, other) for mine, other in pairs if mine.cached_tokens == other.cached_tokens],
            lambda request: request.first,
        ),
        throughput_ratio=throughput / base_throughput if pairs and throughput and base_throughput else None,
    )


def _throughput(runs: Sequence[Run]) -> float | None:
    seconds = sum(run.seconds for run in runs)
    tokens = sum(len(request.output) for run in runs for request in run.requests)
    return tokens / seconds if seconds > 0 else None


Pair = tuple[TimedRequest, TimedRequest]
"""A request of a variant, and the same one without speculation."""


def _pairs(own: Sequence[Run], base: Sequence[Run]) -> list[Pair]:
    """Requests whose whole history is the same in both; after the first difference a session is left out."""
    others = {(run.piece, each.session, each.turn): each for run in base for each in run.requests}
    pairs: list[Pair] = []
    for run in own:
        parted: set[str] = set()
        for request in sorted(run.requests, key=lambda each: each.turn):
            other = others.get((run.piece, request.session, request.turn))
            if other is None or request.session in parted:
                continue
            if request.output == other.output and request.prompt_tokens == other.prompt_tokens:
                pairs.append((request, other))
            else:
                parted.add(request.session)
    return pairs


def ratio(pairs: Sequence[Pair], measure: Callable[[TimedRequest], float]) -> Interval | None:
    """Return the sum of `measure` over a variant's requests by the sum over the others; None where there are none.

    The interval is a percentile bootstrap: sessions are drawn, not requests, since those of one session are alike.
    """
    items = summed((mine.session, (measure(mine), measure(other))) for mine, other in pairs)
    return bootstrap(items, quotient) if len(items) and items[:, 1].sum() > 0 else None


def request_rows(runs: Iterable[Run]) -> list[dict[str, object]]:
    """Return every request as a flat JSON object, so that other figures can be made of them later."""
    return [
        {
            "spec": run.spec,
            "batch": run.batch,
            "group": run.piece,
            "session": request.session,
            "turn": request.turn,
            "prompt_tokens": request.prompt_tokens,
            "cached_tokens": request.cached_tokens,
            "output_tokens": len(request.output),
            "ttft_s": request.first,
            "llm_latency_s": request.last,
            "arrivals": request.chunks,
        }
        for run in runs
        for request in run.requests
    ]


def as_json(row: EngineRow) -> Mapping[str, object]:
    """Return a row as a flat JSON object: a ratio NAME becomes NAME, NAME_low and NAME_high."""
    flat: dict[str, object] = {}
    for name in EngineRow.__dataclass_fields__:
        value = getattr(row, name)
        if isinstance(value, Interval):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = value
    return flat
