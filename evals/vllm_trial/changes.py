"""What of vLLM that the plugin leans on is not as it was in another version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agentinfer_lg.serving.compat.sources import Definition, SourceTree
from agentinfer_lg.serving.compat.surface import SURFACE, Symbol

Verdict = Literal["breaks", "signature", "code"]
"""It does not fit any more; it takes other parameters, and fits; only what it does has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One symbol that is not as it was."""

    symbol: Symbol
    verdict: Verdict
    detail: str


def changes_between(known: SourceTree, tried: SourceTree) -> Iterator[Change]:
    """Yield every symbol of the plugin's surface that differs, the worst first.

    Args:
        known: The package `vllm` of a version that fits.
        tried: That of the version in question.
    """
    found = [change for symbol in SURFACE if (change := _change(symbol, known, tried)) is not None]
    order: tuple[Verdict, ...] = ("breaks", "signature", "code")
    yield from sorted(found, key=lambda change: order.index(change.verdict))


def _change(symbol: Symbol, known: SourceTree, tried: SourceTree) -> Change | None:
    before, after = (tree.find(symbol.file, symbol.name) for tree in (known, tried))
    if misfit := symbol.misfit(after):
        return Change(symbol=symbol, verdict="breaks", detail=misfit)
    if before is None or after is None:
        return None if before is after else Change(symbol=symbol, verdict="code", detail=_appeared(after))
    if before.signature != after.signature:
        return Change(
            symbol=symbol, verdict="signature", detail=f"{before.signature} is now {after.signature}"
        )
    if before.fingerprint != after.fingerprint and not _has_members(symbol):
        return Change(symbol=symbol, verdict="code", detail="its code has changed")
    return None


def _appeared(after: Definition | None) -> str:
    return "is gone; the plugin does without it" if after is None else "is new"


def _has_members(symbol: Symbol) -> bool:
    """Whether it is a class of which single members count: something of a class changes in every version."""
    return any(other.name.startswith(f"{symbol.name}.") and other.file == symbol.file for other in SURFACE)
