"""`agentinfer bench sched-engine`: AgentSched against FCFS on a real engine, next to what the replay predicts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import model_folder, names, step_progress

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.engine.run import Policy, Round, SchedEngineBenchmark, SchedEngineOptions

app = typer.Typer()


@app.command(name="sched-engine")
def sched_engine(
    policies: Annotated[
        str, typer.Option(help="Schedulers, separated by commas; the others are compared with the first.")
    ] = "fcfs,agentsched",
    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo",
    preset: Annotated[
        str, typer.Option(help="Machine with the model, for the prediction.")
    ] = "cpu-smollm2-135m",
    places: Annotated[int, typer.Option(min=1, help="Sessions at the same time.")] = 8,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions per round.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with other sessions.")] = 3,
    calls: Annotated[int, typer.Option(min=2, help="Calls per session.")] = 8,
    one_shots: Annotated[
        float, typer.Option(min=0, max=4, help="One-shot tool requests after each call, on average.")
    ] = 1.0,
    gap: Annotated[float, typer.Option(min=0.1, help="Median seconds that tools take.")] = 2.5,
    kv_tokens: Annotated[int, typer.Option(min=1024, help="Tokens that the KV cache holds.")] = 16_384,
    max_context: Annotated[int, typer.Option(min=1024, help="Longest context of a session.")] = 3400,
    seed: Annotated[int, typer.Option(help="Of the choice of sessions.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")] = None,
) -> None:
    """Serve shrunk recorded agent sessions with a KV cache too small for them, in a closed loop.

    One server per scheduler is loaded and one at a time runs, in turns. The same sessions go through the replay, and
    prediction and measurement are told side by side. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.datasets.agent_traces import load_coding_traces
    from agentinfer_lg.evals.sched.engine.run import SchedEngineBenchmark, SchedEngineOptions
    from agentinfer_lg.evals.sched.engine.workload import Scale
    from agentinfer_lg.evals.sched.replay.run import Grid

    chosen = _policies(policies)
    folder = model_folder(model)
    options = SchedEngineOptions(
        model=str(folder),
        preset=preset,
        places=places,
        sessions=max(sessions, places),
        rounds=rounds,
        kv_tokens=kv_tokens,
        max_model_len=max_context + 96,
        scale=Scale(calls=calls, one_shots=one_shots, gap=gap, max_tokens=max_context),
        seed=seed,
    )
    recorded = load_coding_traces(Grid(data=data).folder, part="report")
    benchmark = SchedEngineBenchmark(sessions=recorded, options=options, policies=chosen)
    code = _run(benchmark)
    typer.echo("\n".join(_report(benchmark.rounds)))
    if json_file is not None:
        _write(json_file, benchmark.rounds, options, model=folder.name)
    if code:
        raise typer.Exit(int(code))


def _run(benchmark: SchedEngineBenchmark) -> ExitCode:
    """Run to the end or to an interrupt; what was measured stays in the benchmark."""
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    try:
        with stop_on_signals(), step_progress(benchmark.steps) as on_step:
            benchmark.run(on_step=on_step)
    except (KeyboardInterrupt, SystemExit):
        typer.echo("Interrupted; this was measured until then.", err=True)
        return ExitCode.INTERRUPTED
    return ExitCode.COMPLETE


def _report(rounds: list[Round]) -> list[str]:
    from agentinfer_lg.evals.sched.engine.figures import FIGURES, compare, side_by_side

    if not rounds:
        return ["nothing was measured"]
    sides = side_by_side(rounds)
    policies = list(dict.fromkeys(side.policy for side in sides))
    cells = {(side.policy, side.figure): side for side in sides}
    heads = [f"{policy} {what}" for policy in policies for what in ("predicted", "measured")]
    lines = [
        "medians over rounds",
        "",
        f"| figure | {' | '.join(heads)} |",
        "|" + " --- |" * (len(heads) + 1),
    ]
    for figure, name in FIGURES.items():
        found = [cells[policy, figure] for policy in policies]
        values = [number for side in found for number in (side.predicted, side.measured)]
        lines.append(f"| {name} | {' | '.join(_number(value) for value in values)} |")
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

    chosen = [known for name in names(text) for known in POLICIES if known == name]
    if not chosen or len(chosen) != len(names(text)) or len(set(chosen)) != len(chosen):
        msg = f"--policies takes some of {', '.join(POLICIES)}, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return chosen


def _write(file: Path, rounds: list[Round], options: SchedEngineOptions, *, model: str) -> None:
    from agentinfer_lg.evals.common.versions import versions
    from agentinfer_lg.evals.sched.engine.figures import compare, side_by_side

    result = {
        "rows": [asdict(side) for side in side_by_side(rounds)] if rounds else [],
        "comparisons": [asdict(each) for each in compare(rounds)] if rounds else [],
        "rounds": [_round(each) for each in rounds],
        "settings": {**asdict(options), "model": model},
        "versions": versions(),
    }
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


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
