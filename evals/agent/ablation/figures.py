"""From cells to rows: what each configuration costs and gains, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from agentinfer_lg.evals.agent.ablation.run import Cell
from agentinfer_lg.evals.agent.benchmark.figures import Breakdown, break_down, combined
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS
from agentinfer_lg.evals.common.bootstrap import Interval, paired_difference, paired_ratio
from agentinfer_lg.evals.common.metrics_page import ServerFigures

Record = Mapping[str, Any]  # Any: JSON of a cell's question

_Key = tuple[int, int, str, str]
"""Block, N, benchmark and id: the same question in two configurations."""
BASELINE = "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRow:
    """One configuration with N questions at the same time; blocks are joined."""

    configuration: str
    n: int
    questions: int
    qps: float
    """Questions answered per second; one that failed was not answered."""
    end_to_end_s: float | None
    """Mean seconds from a question to its answer; None if all failed."""
    accuracy: float
    """Share of answers that are right, by normalised exact match."""
    f1: float
    tokens: float
    """Prompt and output tokens of all calls, per answered question, as are the next two."""
    computed_tokens: float
    """The same without what was cached."""
    ineffective_tokens: float
    """Computed tokens that did not help (`evals.agent.benchmark.figures.Breakdown`)."""
    speedup: float | None
    """Mean end-to-end seconds of the baseline by those of this row, on the questions that both answered; None without any."""
    speedup_interval: Interval | None
    qps_ratio: float | None
    """QPS of this row by that of the baseline, in the blocks that both have."""
    accuracy_difference: Interval | None
    """This row minus the baseline, on the same questions; failures count as wrong."""
    ineffective_ratio: Interval | None
    """Ineffective tokens of this row by those of the baseline, on the questions that both answered."""
    failures: int
    """Questions that ended in an error."""
    ote: float | None
    """Tokens per forward pass of a request, both servers together; above 1 only with speculation."""
    cache_hit_rate: float
    preemptions: float
    queue_s: float
    """Seconds per question that its requests waited in the servers."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationTotal:
    """One configuration with whatever number of questions at the same time: what does not depend on that, on more questions.

    The fields are those of `AblationRow`.
    """

    configuration: str
    questions: int
    accuracy: float
    accuracy_difference: Interval | None
    f1: float
    tokens: float
    computed_tokens: float
    ineffective_tokens: float
    ineffective_ratio: Interval | None
    speedup_interval: Interval | None
    """Of a mixture of N, as long as that is the same for all configurations."""
    failures: int

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Question:
    """A question of a row."""

    seconds: float
    correct: bool
    f1: float
    failed: bool
    breakdown: Breakdown

    @property
    def ineffective_tokens(self) -> int:
        return self.breakdown.ineffective.total


def ablation_rows(cells: Sequence[Cell]) -> list[AblationRow]:
    """Return one row per configuration and N, by N and in the order of `CONFIGURATIONS`."""
    order = list(CONFIGURATIONS)
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.n, order.index(cell.configuration), cell.block)):
        groups.setdefault((cell.n, cell.configuration), []).append(cell)
    return [_row(group, groups.get((places, BASELINE), [])) for (places, _), group in groups.items()]


def ablation_totals(cells: Sequence[Cell]) -> list[AblationTotal]:
    """Return one row per configuration, in the order of `CONFIGURATIONS`."""
    groups = {name: [cell for cell in cells if cell.configuration == name] for name in CONFIGURATIONS}
    rows = [_row(group, groups[BASELINE]) for group in groups.values() if group]
    names = [field.name for field in fields(AblationTotal)]
    return [AblationTotal(**{name: getattr(row, name) for name in names}) for row in rows]


def question_breakdown(record: Record) -> Breakdown:
    """Return where time and tokens of a question went; of one that failed only its seconds are known."""
    if record["result"] is None:
        return Breakdown(seconds=record["seconds"])
    return break_down(record["result"], evidence=record["evidence"])


def _row(own: Sequence[Cell], base: Sequence[Cell]) -> AblationRow:
    mine, theirs = _questions(own), _questions(base)
    both = [key for key in mine if key in theirs]
    listed = list(mine.values())
    count = len(listed)
    answered = [each for each in listed if not each.failed]
    per_answer = max(1, len(answered))
    total = combined(each.breakdown for each in answered)
    servers = _servers(own)
    # A question that fails at once would make a configuration look fast.
    compared = [key for key in both if not (mine[key].failed or theirs[key].failed)]
    seconds = _pair(mine, theirs, compared, "seconds")
    speedup = paired_ratio(seconds[1], seconds[0]) if compared else None
    ineffective = _pair(mine, theirs, compared, "ineffective_tokens")
    return AblationRow(
        configuration=own[0].configuration,
        n=own[0].n,
        questions=count,
        qps=_qps(own),
        end_to_end_s=sum(each.seconds for each in answered) / len(answered) if answered else None,
        accuracy=sum(each.correct for each in listed) / count,
        f1=sum(each.f1 for each in listed) / count,
        tokens=total.tokens / per_answer,
        computed_tokens=total.computed_tokens / per_answer,
        ineffective_tokens=total.ineffective.total / per_answer,
        speedup=speedup.value if speedup else None,
        speedup_interval=speedup,
        qps_ratio=_qps_ratio(own, base),
        accuracy_difference=paired_difference(*_pair(mine, theirs, both, "correct")) if both else None,
        ineffective_ratio=paired_ratio(*ineffective) if sum(ineffective[1]) > 0 else None,
        failures=count - len(answered),
        ote=servers.ote,
        cache_hit_rate=servers.hit_rate,
        preemptions=servers.preemptions,
        queue_s=servers.queue_seconds / count,
    )


def _qps(cells: Sequence[Cell]) -> float:
    answered = sum(record["result"] is not None for cell in cells for record in cell.questions)
    return answered / sum(cell.seconds for cell in cells)


def _qps_ratio(own: Sequence[Cell], base: Sequence[Cell]) -> float | None:
    """Compare the blocks that both have; a run that goes on may lack some of one side."""
    blocks = {cell.block for cell in own} & {cell.block for cell in base}
    mine, theirs = ([cell for cell in cells if cell.block in blocks] for cells in (own, base))
    return _qps(mine) / _qps(theirs) if theirs and _qps(theirs) > 0 else None


def _questions(cells: Sequence[Cell]) -> dict[_Key, _Question]:
    return {
        (cell.block, cell.n, record["benchmark"], record["id"]): _Question(
            seconds=record["seconds"],
            correct=record["correct"],
            f1=record["f1"],
            failed=record["result"] is None,
            breakdown=question_breakdown(record),
        )
        for cell in cells
        for record in cell.questions
    }


def _pair(
    mine: Mapping[_Key, _Question],
    theirs: Mapping[_Key, _Question],
    keys: Sequence[_Key],
    figure: str,
) -> tuple[list[float], list[float]]:
    return (
        [float(getattr(mine[key], figure)) for key in keys],
        [float(getattr(theirs[key], figure)) for key in keys],
    )


def _servers(cells: Sequence[Cell]) -> ServerFigures:
    """Add up what all servers of all cells counted."""
    sums: dict[str, float] = {}
    for cell in cells:
        for figures in cell.servers.values():
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
    return ServerFigures(**sums)
