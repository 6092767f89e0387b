"""All drafters on all sets: the rows of `agentinfer bench sam`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import SETS, Half, Session, load_sessions, tokenizer_file
from agentinfer_lg.evals.sam.replay.batches import BATCH_DRAFTERS, measure
from agentinfer_lg.evals.sam.replay.drafters import make_drafter, missing_package
from agentinfer_lg.evals.sam.replay.figures import COSTS, Score, replay, speedup_ratio

History = Literal["own", "foreign", "both"]
"""Finished sessions that a drafter may know: earlier ones of the same set; all of the other sets; both."""

REFERENCES = ("arctic", "arctic-tuned")
"""Drafters that the others are compared with, session by session."""

DEFAULT_DRAFTERS = (
    *("none", "ngram", "ngram-5", "arctic", "arctic-tuned", "request-sam", "paper"),
    *("ours", "ours-own", "ours-history-only", "ours-topk", "oracle"),
)

Row = dict[str, str | float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What to run."""

    sets: tuple[str, ...]
    """Names of sets, or folders of chats."""
    drafters: tuple[str, ...] = DEFAULT_DRAFTERS
    k: tuple[int, ...] = (3, 8, 16, 32)
    """Most drafted tokens per step, one run each."""
    half: Half = "report"
    history: History = "own"
    marginal_cost: float = 0.03
    """What our drafter is told that verifying one more token costs, as a share of a step."""
    tokenizer: Path | None = None
    data: Path | None = None
    limit_sessions: int | None = None
    """The first so many sessions of each set only."""

    def __post_init__(self) -> None:
        if not (self.sets and self.drafters and self.k):
            msg = "Name at least one set, one drafter and one number of drafted tokens."
            raise UserInputError(msg)
        if min(self.k) < 1 or (self.limit_sessions is not None and self.limit_sessions < 1):
            msg = "Numbers of drafted tokens and of sessions start at 1."
            raise UserInputError(msg)

    @property
    def available(self) -> tuple[str, ...]:
        """Drafters whose packages are installed."""
        return tuple(name for name in self.drafters if not missing_package(name))

    @property
    def missing(self) -> tuple[str, ...]:
        """One sentence for each of the others."""
        return tuple(sentence for name in self.drafters if (sentence := missing_package(name)))

    @property
    def settings(self) -> dict[str, object]:
        """As a JSON object, without the paths of this machine."""
        content = tokenizer_file(self.tokenizer).read_bytes()
        told = {name: value for name, value in asdict(self).items() if name not in {"data", "tokenizer"}}
        return {**told, "tokenizer_sha256": hashlib.sha256(content).hexdigest()}


def compare(
    comparison: Comparison,
    *,
    on_plan: Callable[[int], None] = lambda sessions: None,
    on_session: Callable[[str], None] = lambda run: None,
) -> Iterator[Row]:
    """Run every drafter on every set at every k.

    Args:
        comparison: What to run.
        on_plan: Called once with the number of sessions to be replayed.
        on_session: Called after each session with the name of the run.

    Yields:
        One row per run: set, drafter, k, history, half, the figures of `Score.row`, and, where a reference ran at the
        same k, `vs_arctic` (or `vs_arctic_tuned`) with `_low` and `_high`: the ratio of the speed-ups at marginal cost
        0.03, with its 95% bootstrap interval.

    Raises:
        UserInputError: A set, drafter or tokenizer cannot be had.
    """
    drafters = sorted(comparison.available, key=lambda name: name not in REFERENCES)
    sessions = {name: _load(comparison, name) for name in comparison.sets}
    foreign = {name: _foreign(comparison, name, sessions) for name in comparison.sets}
    per_round = sum(len(own) + len(foreign[name]) for name, own in sessions.items())
    on_plan(per_round * len(drafters) * len(comparison.k))
    for name, own in sessions.items():
        for k in comparison.k:
            scores: dict[str, Score] = {}
            for drafter in drafters:
                run = f"{name} {drafter} K={k}"
                scores[drafter] = replay(
                    own,
                    make_drafter(drafter, k=k, marginal_cost=comparison.marginal_cost),
                    k=k,
                    half=comparison.half,
                    before=foreign[name],
                    apart=comparison.history == "foreign",
                    on_session=lambda run=run: on_session(run),  # type: ignore[misc]
                )
            yield from _rows(comparison, name, k, scores)


def best_by_cost(rows: Sequence[Row]) -> dict[float, str]:
    """Return for each marginal cost the drafter whose speed-up, averaged over sets and numbers of drafted tokens, is highest."""
    found: dict[float, str] = {}
    for cost in COSTS:
        name = f"speedup_at_{str(cost).replace('.', '_')}"
        speedups: dict[str, list[float]] = {}
        for row in rows:
            speedups.setdefault(str(row["drafter"]), []).append(float(row[name]))
        found[cost] = max(speedups, key=lambda drafter: fmean(speedups[drafter]))
    return found


def measure_batches(
    comparison: Comparison, sizes: Sequence[int], *, on_session: Callable[[str], None] = lambda run: None
) -> Iterator[Row]:
    """Time whole batches on every set at the largest k, with the drafters for which that is possible.

    Args:
        comparison: What to run.
        sizes: Sessions at once, one run each.
        on_session: Called before each run with its name.

    Yields:
        One row per run: set, and the figures of `lockstep.measure`.

    Raises:
        UserInputError: A set or tokenizer cannot be had, or a set has fewer sessions than a batch.
    """
    drafters = [name for name in BATCH_DRAFTERS if name in comparison.available]
    for name in comparison.sets if sizes else ():
        sessions = _load(comparison, name)
        for size in sizes:
            for drafter in drafters:
                on_session(f"{name} {drafter} batch {size}")
                yield {"set": name, **measure(sessions, drafter, k=max(comparison.k), batch=size)}


def versions() -> dict[str, str]:
    """Versions of what the figures depend on; a package that is missing is left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("agentinfer-lg", "arctic-inference", "numba", "numpy", "tokenizers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _load(comparison: Comparison, name: str) -> list[Session]:
    return load_sessions(
        name, data=comparison.data, tokenizer=comparison.tokenizer, limit=comparison.limit_sessions
    )


def _foreign(comparison: Comparison, name: str, loaded: dict[str, list[Session]]) -> tuple[Session, ...]:
    if comparison.history == "own":
        return ()
    others = [other for other in SETS if other != name]
    return tuple(session for other in others for session in (loaded.get(other) or _load(comparison, other)))


def _rows(comparison: Comparison, name: str, k: int, scores: dict[str, Score]) -> Iterator[Row]:
    """Rows in the order in which the drafters were named."""
    for drafter in comparison.available:
        score = scores[drafter]
        row: Row = {"set": name, "drafter": drafter, "k": k}
        row |= {"half": comparison.half, "history": comparison.history, **score.row()}
        for reference in REFERENCES:
            if reference in scores and reference != drafter and score.sessions:
                ratio = speedup_ratio(score, scores[reference])
                key = f"vs_{reference.replace('-', '_')}"
                row |= {key: ratio.value, f"{key}_low": ratio.low, f"{key}_high": ratio.high}
        yield row
