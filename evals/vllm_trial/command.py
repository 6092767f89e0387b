"""`agentinfer try-vllm`: does a version of vLLM fit the plugin, and what changed in it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.cli.failures import remember_debug

if TYPE_CHECKING:
    from agentinfer_lg.evals.vllm_trial.changes import Change
    from agentinfer_lg.evals.vllm_trial.process import Outcome

app = typer.Typer()

_TITLES = {
    "configure": "the plugin in vLLM's configuration",
    "schedule": "sessions through AgentSched",
    "draft": "drafts by AgentSAM",
}


@app.command(name="try-vllm")
def try_vllm(
    version: Annotated[
        str | None, typer.Argument(help="Version of vLLM, such as 0.33.0; the installed one if left out.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Version that it is compared with; by default the installed one, if it is supported.",
        ),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            help="Also run the plugin inside it, without a model; needs an installed vLLM for its dependencies."
        ),
    ] = True,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where versions are kept; by default in the user's cache folder."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say whether a version of vLLM fits AgentSched and AgentSAM, and what changed in what they lean on.

    The version is fetched into a folder; nothing is installed. Exits 1 if it does not fit.
    """
    remember_debug(debug)
    tried = _installed() if version is None else _fetched(version, folder)
    known = _known(tried, against, folder)
    typer.echo(f"vLLM {tried.version}, compared with {known.version}:")
    broken = False
    for change in _changes(tried, known):
        broken = broken or change.verdict == "breaks"
        symbol = change.symbol
        typer.echo(f"  {change.verdict:<9}  {symbol.part:<6}  {symbol.name} ({symbol.file}): {change.detail}")
    for outcome in _rehearse(tried) if rehearse else ():
        broken = broken or bool(outcome.problem)
        verdict, end = ("FAIL", f": {outcome.problem}") if outcome.problem else ("ok", "")
        typer.echo(f"  {verdict:<9}  {_TITLES.get(outcome.step, outcome.step)}{end}")
    typer.echo(_verdict(tried.version, broken=broken, rehearsed=rehearse))
    raise typer.Exit(1 if broken else 0)


@dataclass(frozen=True, slots=True)
class _Vllm:
    version: str
    package: Path
    site: Path | None = None
    """What goes first on the path; None: it is the installed one."""


def _installed() -> _Vllm:
    from agentinfer_lg.errors import UserInputError
    from agentinfer_lg.serving.compat.releases import installed_version

    found = importlib.util.find_spec("vllm")
    roots = list(found.submodule_search_locations or ()) if found is not None else []
    if not roots:
        msg = "vLLM is not installed here: name a version, as in `agentinfer try-vllm 0.32.0`"
        raise UserInputError(msg)
    return _Vllm(installed_version() or "of unknown version", Path(roots[0]))


def _fetched(version: str, folder: Path | None) -> _Vllm:
    from agentinfer_lg.evals.vllm_trial.wheel import fetch_vllm

    site = fetch_vllm(version, folder=folder, on_progress=lambda doing: typer.echo(f"{doing} ...", err=True))
    return _Vllm(version, site / "vllm", site)


def _known(tried: _Vllm, against: str | None, folder: Path | None) -> _Vllm:
    """What it is compared with: the installed vLLM, if that is another one and supported, or else the newest one."""
    from agentinfer_lg.serving.compat.releases import RELEASES, installed_version, release_of

    if against is None and tried.site is not None and release_of(installed_version()):
        return _installed()
    return _fetched(against or RELEASES[-1].tested, folder)


def _changes(tried: _Vllm, known: _Vllm) -> Iterator[Change]:
    from agentinfer_lg.evals.vllm_trial.changes import changes_between
    from agentinfer_lg.serving.compat.sources import SourceTree

    return changes_between(SourceTree(known.package), SourceTree(tried.package))


def _rehearse(tried: _Vllm) -> Iterator[Outcome]:
    from agentinfer_lg.evals.vllm_trial.process import Outcome, rehearse

    if importlib.util.find_spec("vllm") is None:
        missing = "vLLM is not installed here, so its dependencies are missing: see docs/serving.md"
        return iter([Outcome("rehearsal", missing)])
    typer.echo("running the plugin inside it (half a minute) ...", err=True)
    return rehearse(tried.site)


def _verdict(version: str, *, broken: bool, rehearsed: bool) -> str:
    from agentinfer_lg.serving.compat.releases import release_of

    if broken:
        return f"The plugin does not fit vLLM {version}: start without the part that is named, or use another version."
    release = release_of(version)
    known = f"a supported version ({release.proof})" if release else "not a supported version yet"
    return (
        f"The plugin fits vLLM {version}{'' if rehearsed else ', as far as its source tells'}; it is {known}."
    )
