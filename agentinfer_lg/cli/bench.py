"""`agentinfer bench`: measurements of single parts. Each study in `evals/` holds its own command; this table names them."""

from __future__ import annotations

import typer

from agentinfer_lg.cli.command_table import command_table

COMMANDS = {
    "retrieval": "agentinfer_lg.evals.sam.retrieval.command",
    "sam": "agentinfer_lg.evals.sam.replay.command",
    "engine": "agentinfer_lg.evals.sam.engine.command",
    "verification": "agentinfer_lg.evals.sam.verification.command",
    "calibration": "agentinfer_lg.evals.sched.calibration.command",
    "sched": "agentinfer_lg.evals.sched.replay.command",
    "sched-engine": "agentinfer_lg.evals.sched.engine.command",
    "overhead": "agentinfer_lg.evals.sched.overhead.command",
    "price": "agentinfer_lg.evals.sched.overhead.command",
    "compress": "agentinfer_lg.evals.compression.long_session.command",
    "granularity": "agentinfer_lg.evals.compression.granularity.command",
    "ablation": "agentinfer_lg.evals.agent.ablation.command",
    "load": "agentinfer_lg.evals.agent.load.command",
    "client": "agentinfer_lg.evals.agent.client_time.command",
    "self-evaluation": "agentinfer_lg.evals.agent.self_evaluation.command",
    "progress": "agentinfer_lg.evals.agent.progress.command",
}

app = typer.Typer(
    name="bench",
    help="Measure single parts on recorded data.",
    no_args_is_help=True,
    cls=command_table(COMMANDS),
)


@app.callback()
def _group() -> None:
    """Measure single parts on recorded data."""
