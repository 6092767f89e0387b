"""`agentinfer doctor`: check everything a run needs with real calls, one line each."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentinfer_lg.cli.failures import remember_debug
from agentinfer_lg.cli.options import load_settings
from agentinfer_lg.errors import AgentInferError
from agentinfer_lg.serving.engine.findings import Finding, Verdict

if TYPE_CHECKING:
    from agentinfer_lg.llm.chat import ChatTier
    from agentinfer_lg.llm.checkup import Checkup
    from agentinfer_lg.llm.probe import EndpointProfile
    from agentinfer_lg.settings import EndpointSettings, Settings, Tier

app = typer.Typer()

_MIN_CONTEXT: Final = 2048
"""Tokens below which a few rounds of search results no longer fit."""

_MIN_FREE_BYTES: Final = 100_000_000


@app.command(name="doctor")
def doctor(
    docs: Annotated[Path | None, typer.Option("--docs", help="Folder of documents.")] = None,
    small_url: Annotated[str | None, typer.Option("--small-url", help="Base URL of the small model.")] = None,
    small_model: Annotated[str | None, typer.Option("--small-model", help="Its name.")] = None,
    large_url: Annotated[str | None, typer.Option("--large-url", help="Base URL of the large model.")] = None,
    large_model: Annotated[str | None, typer.Option("--large-model", help="Its name.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for each completion.")] = 60.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Check endpoints, search, tokenizer and folders with real calls; exits 1 if something fails.

    Keys are read from AGENTINFER_SMALL__API_KEY, AGENTINFER_LARGE__API_KEY and TAVILY_API_KEY.
    """
    remember_debug(debug)
    settings = load_settings(
        docs=docs,
        small={"base_url": small_url, "model": small_model},
        large={"base_url": large_url, "model": large_model},
    )
    failed = asyncio.run(_print_all(settings, timeout))
    raise typer.Exit(1 if failed else 0)


async def _print_all(settings: Settings, timeout: float) -> bool:
    from rich.console import Console
    from rich.text import Text

    from agentinfer_lg.cli.live import plain

    console = Console()
    styles = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
    failed = False
    async for finding in diagnose(settings, timeout=timeout):
        failed = failed or finding.verdict == "FAIL"
        line = Text(f"{finding.verdict:<5}", style=styles[finding.verdict])
        line.append(f"{finding.subject:<24}", style="bold")
        line.append(plain(finding.detail), style="")
        console.print(line, soft_wrap=True, highlight=False)
    return failed


async def diagnose(settings: Settings, *, timeout: float = 60.0) -> AsyncIterator[Finding]:
    """Check everything, yielding each outcome as it is known.

    Args:
        settings: What a run would use.
        timeout: Seconds for each completion.
    """
    yield _check_python()
    async for finding in _check_endpoints(settings, timeout):
        yield finding
    yield await _check_search(settings)
    for finding in await _check_home(settings):
        yield finding
    for finding in await asyncio.to_thread(_check_engine):
        yield finding


def _check_python() -> Finding:
    from agentinfer_lg import __version__

    return Finding("ok", "python", f"Python {platform.python_version()}, agentinfer-lg {__version__}")


async def _check_endpoints(settings: Settings, timeout: float) -> AsyncIterator[Finding]:
    seen: list[tuple[EndpointSettings, Tier, Verdict]] = []
    tiers: tuple[Tier, ...] = ("small", "large")
    for tier in tiers:
        try:
            endpoint = settings.endpoint(tier)
        except AgentInferError as error:
            yield Finding("FAIL", "endpoints", str(error))
            return
        same = next(((other, verdict) for known, other, verdict in seen if known == endpoint), None)
        if same:
            yield Finding(same[1], f"{tier} endpoint", f"the same as the {same[0]} tier's")
            continue
        verdict: Verdict = "ok"
        async for finding in _check_endpoint(tier, endpoint, timeout):
            verdict = "FAIL" if finding.verdict == "FAIL" else verdict
            yield finding
        seen.append((endpoint, tier, verdict))


async def _check_endpoint(tier: Tier, endpoint: EndpointSettings, timeout: float) -> AsyncIterator[Finding]:
    from agentinfer_lg.llm.chat import ChatTier
    from agentinfer_lg.llm.checkup import check_up
    from agentinfer_lg.llm.connection import public_url

    model = ChatTier(tier, endpoint.model_copy(update={"timeout": timeout}))
    try:
        profile = await model.connect()
    except AgentInferError as error:
        yield Finding("FAIL", f"{tier} endpoint", str(error))
        return
    if profile is None:
        yield Finding("ok", f"{tier} endpoint", f"{endpoint.model} is asked through LangChain")
    else:
        note = f"; {profile.note}" if profile.note else ""
        answered = f"{public_url(profile.base_url)} answered in {profile.latency:.2f} s, serves {profile.model}{note}"
        yield Finding("ok", f"{tier} endpoint", answered)
        yield _check_hints(tier, endpoint, profile)
    found = await check_up(model)
    yield _check_context(tier, model.max_model_len)
    for finding in _check_model(tier, endpoint, profile, found):
        yield finding
    if found.completion.ok:
        yield await _check_tokenizer(tier, model)
        for finding in _check_lessons(tier, model):
            yield finding


def _check_hints(tier: Tier, endpoint: EndpointSettings, profile: EndpointProfile) -> Finding:
    subject = f"{tier} hints"
    match endpoint.hints:
        case "off":
            return Finding("ok", subject, "switched off by AGENTINFER_" + tier.upper() + "__HINTS")
        case "on" if not profile.vllm:
            return Finding(
                "warn", subject, "forced on, but the server is not vLLM and may refuse the field; set auto"
            )
        case _ if profile.vllm:
            return Finding("ok", subject, "the server is vLLM: session hints are sent")
        case _:
            return Finding("ok", subject, "the server is not vLLM: no session hints are sent")


def _check_context(tier: Tier, length: int | None) -> Finding:
    subject = f"{tier} context"
    if length is None:
        return Finding("ok", subject, "the server does not tell its context length")
    if length < _MIN_CONTEXT:
        detail = (
            f"{length:,} tokens; rounds will be cut short, start the server with at least {_MIN_CONTEXT:,}"
        )
        return Finding("warn", subject, detail)
    return Finding("ok", subject, f"{length:,} tokens")


def _check_model(
    tier: Tier, endpoint: EndpointSettings, profile: EndpointProfile | None, found: Checkup
) -> list[Finding]:
    completion = found.completion
    if not completion.ok:
        return [Finding("FAIL", f"{tier} completion", f"{completion.detail}. See the server's log")]
    timed = f"a completion took {completion.seconds:.2f} s, {completion.detail}"
    return [
        Finding("ok", f"{tier} completion", timed),
        _check_tool_calling(tier, endpoint, profile, found),
        _check_constrained(tier, profile, found),
        _check_cache(tier, profile, found),
    ]


_NATIVE_CALLS: Final = {
    "vllm": ". For native calls start vLLM with --enable-auto-tool-choice --tool-call-parser",
    "llamacpp": ". For native calls start llama.cpp's server with --jinja",
    "library": ". For native calls choose a model that Ollama lists with the capability tools",
}
"""What to do for native tool calls, by who owns the model in the server's list."""


def _check_tool_calling(
    tier: Tier, endpoint: EndpointSettings, profile: EndpointProfile | None, found: Checkup
) -> Finding:
    subject, tools = f"{tier} tool calling", found.tools
    if endpoint.tool_calling == "json":
        return Finding("ok", subject, "one JSON action per step, as set")
    if tools.ok:
        return Finding("ok", subject, tools.detail)
    if endpoint.tool_calling == "native":
        detail = f"{tools.detail}; set AGENTINFER_{tier.upper()}__TOOL_CALLING=auto"
        return Finding("FAIL", subject, detail)
    advice = _NATIVE_CALLS.get(profile.owner, "") if profile is not None else ""
    return Finding("warn", subject, f"{tools.detail}; one JSON action per step is used instead{advice}")


def _check_constrained(tier: Tier, profile: EndpointProfile | None, found: Checkup) -> Finding:
    subject, schema, regex = f"{tier} constrained", found.schema, found.regex
    if schema.ok and regex.ok:
        return Finding("ok", subject, "JSON schema and regular expression are obeyed")
    if schema.ok:
        note = f" ({regex.detail})" if profile is not None and profile.vllm else ""
        return Finding("ok", subject, f"JSON schema is obeyed, regular expressions are not{note}")
    detail = f"JSON schema: {schema.detail}; output is parsed tolerantly instead, which weak models strain"
    return Finding("warn", subject, detail)


def _check_cache(tier: Tier, profile: EndpointProfile | None, found: Checkup) -> Finding:
    subject, cached = f"{tier} prefix cache", found.cached
    if cached.ok:
        return Finding("ok", subject, cached.detail)
    vllm = profile is not None and profile.vllm
    mend = "start vLLM with --enable-prompt-tokens-details" if vllm else "hits are shown as 0"
    return Finding("warn", subject, f"{cached.detail}; {mend}")


async def _check_tokenizer(tier: Tier, model: ChatTier) -> Finding:
    subject = f"{tier} tokenizer"
    if await model.server_counts_tokens():
        return Finding("ok", subject, "the server counts tokens")
    return Finding("ok", subject, "the server has no /tokenize: token counts are estimated before each call")


def _check_lessons(tier: Tier, model: ChatTier) -> list[Finding]:
    """Return what was learned of the model: each is handled, and none is an obstacle."""
    known = model.known.capabilities
    findings = [Finding("ok", f"{tier} adapted", sentence) for sentence in model.known.lessons.values()]
    if not known.thinks:
        return findings
    told = f"the model thinks (up to {known.thought_tokens:,} tokens here)"
    if known.thought_place in ("field", "hidden"):
        return [
            *findings,
            Finding("ok", f"{tier} reasoning", f"{told}; its thoughts are kept apart from its answers"),
        ]
    advice = "a reasoning parser at the server (vLLM: --reasoning-parser) would tell them apart earlier"
    detail = f"{told}; its thoughts arrive unparsed in the text and are taken out here; {advice}"
    return [*findings, Finding("warn", f"{tier} reasoning", detail)]


async def _check_search(settings: Settings) -> Finding:
    from agentinfer_lg.tools.providers import check_search

    try:
        found = await check_search(settings)
    except AgentInferError as error:
        return Finding("FAIL", "search", str(error))
    return Finding("warn" if found.warning else "ok", "search", found.detail)


async def _check_home(settings: Settings) -> list[Finding]:
    from agentinfer_lg.checkpoints import open_checkpointer, open_store

    try:
        async with open_checkpointer(settings) as saver, open_store(settings):
            failure = saver.failure
    except AgentInferError as error:
        return [Finding("FAIL", "saved runs", str(error))]
    home = settings.home.expanduser()
    if failure:
        return [Finding("FAIL", "saved runs", failure)]
    free = await asyncio.to_thread(lambda: shutil.disk_usage(home).free)
    lines = [Finding("ok", "saved runs", f"{home} can be written")]
    room = f"{free / 1e9:.1f} GB free"
    if free < _MIN_FREE_BYTES:
        lines.append(Finding("warn", "disk", f"{room}; free some, or set AGENTINFER_HOME to another folder"))
    else:
        lines.append(Finding("ok", "disk", room))
    return lines


def _check_engine() -> list[Finding]:
    from agentinfer_lg.serving.ascend.installation import npu_findings
    from agentinfer_lg.serving.engine.installation import engine_findings

    return [*engine_findings(), *npu_findings()]
