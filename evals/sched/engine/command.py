"""`agentinfer bench sched-engine`: AgentSched against FCFS on a real engine, next to what the replay predicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.flags import known_names, model_folder
from agentinfer_lg.evals.common.study import StudyFlags, measuring, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.engine.run import Policy, Round, SchedEngineBenchmark, SchedEngineOptions

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class SchedEngineFlags(StudyFlags):
    """Flags of `agentinfer bench sched-engine`."""

    policies: Annotated[
        str, typer.Option(help="Schedulers, separated by commas; the others are compared with the first.")
    ] = "fcfs,agentsched"
    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo"
    preset: Annotated[str, typer.Option(help="Machine with the model, for the prediction.")] = (
        "cpu-smollm2-135m"
    )
    places: Annotated[int, typer.Option(min=1, help="Sessions at the same time.")] = 8
    sessions: Annotated[int, typer.Option(min=1, help="Sessions per round.")] = 12
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with other sessions.")] = 3
    calls: Annotated[int, typer.Option(min=2, help="Calls per session.")] = 8
    one_shots: Annotated[
        float, typer.Option(min=0, max=4, help="One-shot tool requests after each call, on average.")
    ] = 1.0
    gap: Annotated[float, typer.Option(min=0.1, help="Median seconds that tools take.")] = 2.5
    kv_tokens: Annotated[int, typer.Option(min=1024, help="Tokens that the KV cache holds.")] = 16_384
    max_context: Annotated[int, typer.Option(min=1024, help="Longest context of a session.")] = 3400
    seed: Annotated[int, typer.Option(help="Of the choice of sessions.")] = 0
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )


@study(app, SchedEngineFlags, name="sched-engine")
def sched_engine(flags: SchedEngineFlags) -> ExitCode | None:
    """Serve shrunk recorded agent sessions with a KV cache too small for them, in a closed loop.

    One server per scheduler is loaded and one at a time runs, in turns. The same sessions go through the replay, and
    prediction and measurement are told side by side. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.datasets.agent_traces import load_coding_traces
    from agentinfer_lg.evals.sched.engine.run import SchedEngineBenchmark, SchedEngineOptions
    from agentinfer_lg.evals.sched.engine.workload import Scale
    from agentinfer_lg.evals.sched.replay.run import Grid

    chosen = _policies(flags.policies)
    folder = model_folder(flags.model)
    options = SchedEngineOptions(
        model=str(folder),
        preset=flags.preset,
        places=flags.places,
        sessions=max(flags.sessions, flags.places),
        rounds=flags.rounds,
        kv_tokens=flags.kv_tokens,
        max_model_len=flags.max_context + 96,
        scale=Scale(
            calls=flags.calls, one_shots=flags.one_shots, gap=flags.gap, max_tokens=flags.max_context
        ),
        seed=flags.seed,
    )
    recorded = load_coding_traces(Grid(data=flags.data).folder, part="report")
    benchmark = SchedEngineBenchmark(sessions=recorded, options=options, policies=chosen)
    code = _run(benchmark)
    typer.echo("\n".join(_report(benchmark.rounds)))
    flags.write(_figures(benchmark.rounds, options, model=folder.name))
    return code


def _run(benchmark: SchedEngineBenchmark) -> ExitCode:
    """Run to the end or to an interrupt; what was measured stays in the benchmark."""
    with measuring(benchmark.steps) as measurement:
        benchmark.run(on_step=measurement.step)
    return measurement.code


def _report(rounds: list[Round]) -> list[str]:
    from agentinfer_lg.evals.sched.engine.figures import FIGURES, compare, side_by_side

    if not rounds:
        return ["nothing was measured"]
    sides = side_by_side(rounds)
    policies = list(dict.fromkeys(side.policy for side in sides))
    cells = {(side.policy, side.figure): side for side in sides}
    heads = [f"{policy} {what}" for policy in policies for what in ("predicted", "measured")]
    rows = [("figure", *heads)]
    for figure, name in FIGURES.items():
        found = [cells[policy, figure] for policy in policies]
        values = [number for side in found for number in (side.predicted, side.measured)]
        rows.append((name, *map(_number, values)))
    lines = ["medians over rounds", "", *aligned(rows)]
    for each in compare(rounds):
        ratios = ", ".join(f"{_number(one)}/{_number(other)}" for one, other in each.rounds)
        lines += [
            "",
            f"{each.policy} against {policies[0]}: mean completion x{_number(each.completion_predicted)} predicted, "
            f"x{_number(each.completion_measured)} measured (rounds: {ratios}); hit rate "
            f"{each.hit_points_predicted:+.1f} points predicted, {_points(each.hit_points_measured)} measured",
        ]
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _policies(text: str) -> list[Policy]:
    from agentinfer_lg.evals.sched.engine.run import POLICIES

    return known_names(text, POLICIES, flag="--policies")


def _figures(rounds: list[Round], options: SchedEngineOptions, *, model: str) -> dict[str, Any]:  # Any: JSON
    from agentinfer_lg.evals.common.versions import versions
    from agentinfer_lg.evals.sched.engine.figures import compare, side_by_side

    return {
        "rows": [asdict(side) for side in side_by_side(rounds)] if rounds else [],
        "comparisons": [asdict(each) for each in compare(rounds)] if rounds else [],
        "rounds": [_round(each) for each in rounds],
        "settings": {**asdict(options), "model": model},
        "versions": versions(),
    }


def _round(each: Round) -> dict[str, Any]:  # Any: JSON
    sides = {"predicted": each.predicted, "measured": each.measured}
    return {
        "policy": each.policy,
        "round": each.number,
        **{
            name: None if side is None else {**side.row(), "completion": side.completion, "own": side.figures}
            for name, side in sides.items()
        },
    }
