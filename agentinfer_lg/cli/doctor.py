"""`agentinfer doctor`: check everything a run needs with real calls, one line each."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from agentinfer_lg.cli.failures import remember_debug
from agentinfer_lg.cli.options import load_settings
from agentinfer_lg.errors import AgentInferError

if TYPE_CHECKING:
    from agentinfer_lg.probe import Capabilities, EndpointProfile
    from agentinfer_lg.settings import EndpointSettings, Settings, Tier

__all__ = ("Diagnosis", "diagnose", "register")

_MIN_CONTEXT: Final = 2048
"""Tokens below which a few rounds of search results no longer fit."""

_MIN_FREE_BYTES: Final = 100_000_000

Verdict = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line."""

    verdict: Verdict
    subject: str
    detail: str
    """What was seen; for `warn` and `FAIL` also what to do."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="doctor")(doctor)


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
    async for diagnosis in diagnose(settings, timeout=timeout):
        failed = failed or diagnosis.verdict == "FAIL"
        line = Text(f"{diagnosis.verdict:<5}", style=styles[diagnosis.verdict])
        line.append(f"{diagnosis.subject:<24}", style="bold")
        line.append(plain(diagnosis.detail), style="")
        console.print(line, soft_wrap=True, highlight=False)
    return failed


async def diagnose(settings: Settings, *, timeout: float = 60.0) -> AsyncIterator[Diagnosis]:
    """Check everything, yielding each outcome as it is known.

    Args:
        settings: What a run would use.
        timeout: Seconds for each completion.
    """
    yield _check_python()
    async for diagnosis in _check_endpoints(settings, timeout):
        yield diagnosis
    yield await _check_search(settings)
    for diagnosis in await _check_home(settings):
        yield diagnosis
    for diagnosis in await asyncio.to_thread(_check_engine):
        yield diagnosis


def _check_python() -> Diagnosis:
    from agentinfer_lg import __version__

    return Diagnosis("ok", "python", f"Python {platform.python_version()}, agentinfer-lg {__version__}")


async def _check_endpoints(settings: Settings, timeout: float) -> AsyncIterator[Diagnosis]:
    seen: list[tuple[EndpointSettings, Tier, Verdict]] = []
    tiers: tuple[Tier, ...] = ("small", "large")
    for tier in tiers:
        try:
            endpoint = settings.endpoint(tier)
        except AgentInferError as error:
            yield Diagnosis("FAIL", "endpoints", str(error))
            return
        same = next(((other, verdict) for known, other, verdict in seen if known == endpoint), None)
        if same:
            yield Diagnosis(same[1], f"{tier} endpoint", f"the same as the {same[0]} tier's")
            continue
        verdict: Verdict = "ok"
        async for diagnosis in _check_endpoint(tier, endpoint, timeout):
            verdict = "FAIL" if diagnosis.verdict == "FAIL" else verdict
            yield diagnosis
        seen.append((endpoint, tier, verdict))


async def _check_endpoint(tier: Tier, endpoint: EndpointSettings, timeout: float) -> AsyncIterator[Diagnosis]:
    from agentinfer_lg.probe import probe_capabilities, probe_endpoint, public_url

    try:
        profile = await probe_endpoint(endpoint)
    except AgentInferError as error:
        yield Diagnosis("FAIL", f"{tier} endpoint", str(error))
        return
    answered = f"{public_url(profile.base_url)} answered in {profile.latency:.2f} s, serves {profile.model}"
    yield Diagnosis("ok", f"{tier} endpoint", answered)
    yield _check_hints(tier, endpoint, profile)
    yield _check_context(tier, profile)
    capabilities = await probe_capabilities(endpoint, profile, timeout=timeout)
    for diagnosis in _check_capabilities(tier, endpoint, profile, capabilities):
        yield diagnosis


def _check_hints(tier: Tier, endpoint: EndpointSettings, profile: EndpointProfile) -> Diagnosis:
    subject = f"{tier} hints"
    match endpoint.hints:
        case "off":
            return Diagnosis("ok", subject, "switched off by AGENTINFER_" + tier.upper() + "__HINTS")
        case "on" if not profile.vllm:
            return Diagnosis(
                "warn", subject, "forced on, but the server is not vLLM and may refuse the field; set auto"
            )
        case _ if profile.vllm:
            return Diagnosis("ok", subject, "the server is vLLM: session hints are sent")
        case _:
            return Diagnosis("ok", subject, "the server is not vLLM: no session hints are sent")


def _check_context(tier: Tier, profile: EndpointProfile) -> Diagnosis:
    subject, length = f"{tier} context", profile.max_model_len
    if length is None:
        return Diagnosis("ok", subject, "the server does not tell its context length")
    if length < _MIN_CONTEXT:
        detail = (
            f"{length:,} tokens; rounds will be cut short, start the server with at least {_MIN_CONTEXT:,}"
        )
        return Diagnosis("warn", subject, detail)
    return Diagnosis("ok", subject, f"{length:,} tokens")


def _check_capabilities(
    tier: Tier, endpoint: EndpointSettings, profile: EndpointProfile, found: Capabilities
) -> list[Diagnosis]:
    chat = found.chat
    timed = f"a completion took {chat.seconds:.2f} s, {chat.detail}"
    if not chat.ok:
        return [
            Diagnosis(
                "FAIL", f"{tier} completion", f"{chat.detail}. Check the model name and the server's log"
            )
        ]
    return [
        Diagnosis("ok", f"{tier} completion", timed),
        _check_tool_calling(tier, endpoint, found),
        _check_constrained(tier, profile, found),
        _check_cache(tier, profile, found),
        _check_tokenizer(tier, found),
    ]


def _check_tool_calling(tier: Tier, endpoint: EndpointSettings, found: Capabilities) -> Diagnosis:
    subject, tools = f"{tier} tool calling", found.tool_calling
    if endpoint.tool_calling == "json":
        return Diagnosis("ok", subject, "one JSON action per step, as set")
    if tools.ok:
        return Diagnosis("ok", subject, tools.detail)
    if endpoint.tool_calling == "native":
        detail = f"{tools.detail}; set AGENTINFER_{tier.upper()}__TOOL_CALLING=auto"
        return Diagnosis("FAIL", subject, detail)
    detail = (
        f"{tools.detail}; one JSON action per step is used instead. For native calls start vLLM with "
        "--enable-auto-tool-choice --tool-call-parser"
    )
    return Diagnosis("warn", subject, detail)


def _check_constrained(tier: Tier, profile: EndpointProfile, found: Capabilities) -> Diagnosis:
    subject, schema, regex = f"{tier} constrained", found.json_schema, found.regex
    if schema.ok and regex.ok:
        return Diagnosis("ok", subject, "JSON schema and regular expression are obeyed")
    if schema.ok:
        note = f" ({regex.detail})" if profile.vllm else ""
        return Diagnosis("ok", subject, f"JSON schema is obeyed, regular expressions are not{note}")
    detail = f"JSON schema: {schema.detail}; output is parsed tolerantly instead, which weak models strain"
    return Diagnosis("warn", subject, detail)


def _check_cache(tier: Tier, profile: EndpointProfile, found: Capabilities) -> Diagnosis:
    subject, cached = f"{tier} prefix cache", found.cached_tokens
    if cached.ok:
        return Diagnosis("ok", subject, cached.detail)
    mend = "start vLLM with --enable-prompt-tokens-details" if profile.vllm else "hits are shown as 0"
    return Diagnosis("warn", subject, f"{cached.detail}; {mend}")


def _check_tokenizer(tier: Tier, found: Capabilities) -> Diagnosis:
    subject = f"{tier} tokenizer"
    if found.tokenize.ok:
        return Diagnosis("ok", subject, found.tokenize.detail)
    return Diagnosis("ok", subject, f"{found.tokenize.detail}: token counts are estimated before each call")


async def _check_search(settings: Settings) -> Diagnosis:
    if settings.docs is not None:
        return await _check_docs(settings.docs)
    if settings.tavily_api_key.get_secret_value().strip():
        return await _check_tavily(settings)
    detail = (
        "nothing to search. Pass --docs FOLDER (or set AGENTINFER_DOCS), or set TAVILY_API_KEY for the web"
    )
    return Diagnosis("FAIL", "search", detail)


async def _check_docs(folder: Path) -> Diagnosis:
    from agentinfer_lg.tools import LocalFolder

    local = LocalFolder(folder)
    try:
        documents = await local.check()
    except AgentInferError as error:
        return Diagnosis("FAIL", "search", str(error))
    finally:
        await local.aclose()
    found = f"{documents} documents in {folder}"
    if local.skipped:
        return Diagnosis(
            "warn", "search", f"{found}; {len(local.skipped)} left out, such as: {local.skipped[0]}"
        )
    return Diagnosis("ok", "search", found)


async def _check_tavily(settings: Settings) -> Diagnosis:
    from agentinfer_lg.tools import TavilySearch

    try:
        hits = await TavilySearch(settings.tavily_api_key).search(["lighthouse"], limit=1)
    except AgentInferError as error:
        return Diagnosis("FAIL", "search", str(error))
    return Diagnosis("ok", "search", f"the web search answered with {sum(map(len, hits))} result")


async def _check_home(settings: Settings) -> list[Diagnosis]:
    from agentinfer_lg.checkpoints import open_checkpointer, open_store

    try:
        async with open_checkpointer(settings) as saver, open_store(settings):
            failure = saver.failure
    except AgentInferError as error:
        return [Diagnosis("FAIL", "saved runs", str(error))]
    home = settings.home.expanduser()
    if failure:
        return [Diagnosis("FAIL", "saved runs", failure)]
    free = await asyncio.to_thread(lambda: shutil.disk_usage(home).free)
    lines = [Diagnosis("ok", "saved runs", f"{home} can be written")]
    room = f"{free / 1e9:.1f} GB free"
    if free < _MIN_FREE_BYTES:
        lines.append(
            Diagnosis("warn", "disk", f"{room}; free some, or set AGENTINFER_HOME to another folder")
        )
    else:
        lines.append(Diagnosis("ok", "disk", room))
    return lines


def _check_engine() -> list[Diagnosis]:
    from agentinfer_lg.serving.ascend.installation import npu_findings
    from agentinfer_lg.serving.engine_findings import engine_findings

    found = [*engine_findings(), *npu_findings()]
    return [Diagnosis(finding.verdict, finding.subject, finding.detail) for finding in found]
