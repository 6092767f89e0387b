"""`agentinfer bench calibration`: the machine of the replays, measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import model_folder
from agentinfer_lg.evals.common.progress import step_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.calibration.fit import Fit, StepTime

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class CalibrationFlags(StudyFlags):
    """Flags of `agentinfer bench calibration`."""

    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo"
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the fastest of each step counts.")] = 3
    steps: Annotated[int, typer.Option(min=8, help="Decode steps per measurement.")] = 24
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache, in GiB.")] = 1.0
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "auto"


@study(app, CalibrationFlags)
def calibration(flags: CalibrationFlags) -> None:
    """Fit the roofline model, by which replays tell the time, to a real engine on this machine.

    Half of the measured steps is fitted; how far the model is off is told on the other half. Nothing else should run
    meanwhile.
    """
    from agentinfer_lg.evals.sched.calibration.fit import fit_machine
    from agentinfer_lg.evals.sched.calibration.run import CalibrationOptions, measure_steps
    from agentinfer_lg.evals.sched.replay.hardware import model_hardware
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    folder = model_folder(flags.model)
    options = CalibrationOptions(
        model=str(folder),
        repeats=flags.repeats,
        steps=flags.steps,
        kv_cache_gib=flags.kv_cache_gib,
        dtype=flags.dtype,
    )
    facts = model_hardware(
        read_config(folder), name=folder.name, kv_tokens=0, step_tokens=options.step_tokens
    )
    with stop_on_signals(), step_progress(flags.repeats + 1) as on_step:
        measured = measure_steps(options, on_step=on_step)
    fit = fit_machine(measured, facts)
    typer.echo("\n".join([*_table(measured, fit), "", *_summary(fit)]))
    flags.write(_figures(measured, fit, model=folder.name))


def read_config(folder: Path) -> dict[str, Any]:  # Any: JSON
    """Read a model's config.json.

    Raises:
        UserInputError: It is not there, or not JSON.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read ({error}): name a model folder in Hugging Face format"
        raise UserInputError(msg) from None
    return config if isinstance(config, dict) else {}


def _table(measured: list[StepTime], fit: Fit) -> list[str]:
    from agentinfer_lg.evals.sched.calibration.fit import halves

    _, other = halves(measured)
    rows = [("step", "requests", "tokens", "context", "measured ms", "model ms", "used")]
    for step in measured:
        tokens, context = sum(new for new, _ in step.work), sum(context for _, context in step.work)
        waited = fit.request_seconds if step.kind in ("prompt", "appended") else 0.0
        model = (fit.hardware.step_seconds(step.work) + waited) * 1000
        times = (f"{step.seconds * 1000:.1f}", f"{model:.1f}")
        used = "check" if step in other else "fit"
        rows.append((step.kind, str(len(step.work)), str(tokens), str(context), *times, used))
    return aligned(rows)


def _summary(fit: Fit) -> list[str]:
    machine = fit.hardware
    kinds = ", ".join(f"{kind} {error:.1%}" for kind, error in fit.error_by_kind.items())
    return [
        f"{machine.flops_per_second / 1e9:.0f} GFLOPS, in attention "
        f"{(machine.attention_flops_per_second or 0) / 1e9:.0f}; {machine.bytes_per_second / 1e9:.1f} GB/s; "
        f"{machine.overhead_seconds * 1000:.1f} ms per step; arithmetic and memory traffic "
        f"{'at the same time' if machine.overlap else 'one after the other'}; "
        f"{fit.request_seconds * 1000:.1f} ms per request outside of its steps",
        f"relative error on {fit.checked} steps that were not fitted: median {fit.median_error:.1%}, worst "
        f"{fit.worst_error:.1%}, mean {fit.bias:+.1%} ({kinds})",
    ]


def _figures(measured: list[StepTime], fit: Fit, *, model: str) -> dict[str, Any]:  # Any: JSON
    from agentinfer_lg.evals.common.versions import versions

    return {
        "rows": [asdict(step) for step in measured],
        "fit": asdict(fit),
        "model": model,
        "versions": versions(),
    }
