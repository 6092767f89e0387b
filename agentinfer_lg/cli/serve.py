"""`agentinfer serve`: run vLLM with what this machine needs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentinfer_lg.cli.failures import ExitCode, explain
from agentinfer_lg.cli.part_flags import PartFlags, with_part_flags
from agentinfer_lg.errors import EngineError
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig

if TYPE_CHECKING:
    from agentinfer_lg.serving.engine.command import ServeOptions
    from agentinfer_lg.serving.engine.launch import Server
    from agentinfer_lg.serving.engine.machine import Device

app = typer.Typer()

_LISTEN, _MEMORY, _ENGINE, _SAM, _SCHED = (
    "Listening",
    "Memory",
    "Engine",
    "Speculation from session memory (AgentSAM)",
    "Scheduling for agents (AgentSched)",
)


def _flag(name: str, text: str, panel: str) -> Any:  # Any: typer's own signature
    return typer.Option(name, help=text, rich_help_panel=panel, show_default=False)


_SAM_FLAGS, _SCHED_FLAGS = PartFlags(SamConfig, _SAM), PartFlags(SchedConfig, _SCHED)


@app.command(name="serve", context_settings={"allow_extra_args": True})
@with_part_flags(_SAM_FLAGS, _SCHED_FLAGS)
def serve(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, name on the hub, or `demo` for the small demo model.", show_default=False
        ),
    ],
    host: Annotated[str, _flag("--host", "Address to listen on; default: 127.0.0.1.", _LISTEN)] = "127.0.0.1",
    port: Annotated[int, _flag("--port", "Port; default: 8000; 0: any free one.", _LISTEN)] = 8000,
    served_model_name: Annotated[
        str | None, _flag("--served-model-name", "Name that clients use; default: MODEL.", _LISTEN)
    ] = None,
    max_model_len: Annotated[
        int | None, _flag("--max-model-len", "Longest context, in tokens; default: the model's.", _MEMORY)
    ] = None,
    kv_cache_gib: Annotated[
        float | None, _flag("--kv-cache-gib", "Memory of the KV cache, in GiB.", _MEMORY)
    ] = None,
    block_size: Annotated[
        int | None, _flag("--block-size", "Tokens of a KV cache block; default on a CPU: 32.", _MEMORY)
    ] = None,
    max_num_seqs: Annotated[
        int | None, _flag("--max-num-seqs", "Most requests computed at the same time.", _MEMORY)
    ] = None,
    tool_call_parser: Annotated[
        str | None,
        _flag(
            "--tool-call-parser", "vLLM's parser of tool calls, or `none`; default: by the model.", _ENGINE
        ),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        _flag("--reasoning-parser", "vLLM's parser of thoughts, or `none`; default: by the model.", _ENGINE),
    ] = None,
    compile_model: Annotated[
        bool, _flag("--compile", "CPU: compile the model; faster after a longer first start.", _ENGINE)
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "npu"],
        _flag("--device", "Accelerator; default: what is there.", _ENGINE),
    ] = "auto",
    sam: Annotated[
        bool,
        _flag(
            "--sam/--no-sam",
            "Draft tokens from this and earlier sessions; same answers, sooner. Default: on.",
            _SAM,
        ),
    ] = True,
    sched: Annotated[
        bool,
        _flag(
            "--sched/--no-sched",
            "Order requests and keep caches by who comes back; same answers, sooner. Default: on.",
            _SCHED,
        ),
    ] = True,
    timeout: Annotated[
        float, _flag("--timeout", "Seconds the start may take; default: 1800.", _ENGINE)
    ] = 1800.0,
    dry_run: Annotated[bool, _flag("--dry-run", "Print the command and do not start it.", _ENGINE)] = False,
    **settings: Any,
) -> None:
    """Serve a model with vLLM, with the flags and variables that this machine needs.

    Arguments after `--` go to vLLM as they are and win over the ones chosen here. Ctrl-C stops the engine.
    """
    from agentinfer_lg.serving.engine.command import ServeOptions

    try:
        options = ServeOptions(
            model=_model_folder(model, dry_run=dry_run),
            host=host,
            port=port,
            served_model_name=served_model_name or ("demo" if _is_demo(model) else None),
            max_model_len=max_model_len,
            kv_cache_gib=kv_cache_gib,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            tool_call_parser=tool_call_parser,
            reasoning_parser=reasoning_parser,
            compile=compile_model,
            device=device,
            sam=_SAM_FLAGS.read(settings) if sam else None,
            sched=_SCHED_FLAGS.read(settings) if sched else None,
            extra_args=tuple(context.args),
        )
        code = _print_command(options) if dry_run else _run(options, timeout=timeout)
    except Exception as error:
        code = explain(error)
    raise typer.Exit(int(code))


def _is_demo(model: str) -> bool:
    return model == "demo" and not Path(model).is_dir()


def _model_folder(model: str, *, dry_run: bool) -> str:
    if not _is_demo(model) or dry_run:
        return model
    from agentinfer_lg.serving.engine.demo_model import demo_model

    return str(demo_model(say=lambda line: typer.echo(line, err=True)))


def _print_command(options: ServeOptions) -> ExitCode:
    from agentinfer_lg.serving.engine.command import build_command
    from agentinfer_lg.serving.engine.machine import detect_device

    device = detect_device() if options.device == "auto" else options.device
    _tell_notes(options, device)
    command, variables = build_command(options, device=device)
    shown = {"PROMETHEUS_MULTIPROC_DIR": "$(mktemp -d)", **{k: shlex.quote(v) for k, v in variables.items()}}
    typer.echo(" ".join([*(f"{name}={value}" for name, value in shown.items()), shlex.join(command)]))
    return ExitCode.COMPLETE


def _tell_notes(options: ServeOptions, device: Device) -> None:
    from agentinfer_lg.serving.engine.command import part_notes

    for note in part_notes(options, device=device):
        typer.echo(note, err=True)


def _run(options: ServeOptions, *, timeout: float) -> ExitCode:
    """Run the engine in the foreground until it ends or is interrupted."""
    from agentinfer_lg.serving.engine.launch import Server, stop_on_signals

    with stop_on_signals():
        server = Server(options, echo=sys.stderr)
        _tell_notes(server.options, server.device)
        try:
            server.start()
            _announce(server, server.wait_ready(timeout))
            server.wait()
            raise EngineError(server.last_words())
        except KeyboardInterrupt:
            typer.echo("Stopping the engine ...", err=True)
            return ExitCode.INTERRUPTED
        finally:
            server.stop()


def _announce(server: Server, seconds: float) -> None:
    typer.echo(f"\nready after {seconds:.0f} s: export AGENTINFER_SMALL__BASE_URL={server.base_url}\n")
    sys.stdout.flush()
