"""What a drafter counts."""

from __future__ import annotations

from dataclasses import dataclass

from agentinfer_lg.serving.sam.types import Source


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Tokens of one kind of source."""

    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterStats:
    """Counters since the start, and what is held now."""

    passes: int
    """Decode passes: steps of a request after its first token."""
    emitted: int
    """Tokens that came out of them; emitted / passes is the paper's OTE."""
    drafts: int
    """Drafts that were not empty."""
    sources: dict[Source, SourceStats]
    unready: int
    """Passes without a draft because the automaton was still being built."""
    backlog: int
    """Background jobs not done."""
    backlog_tokens: int
    """Tokens of the prompts among them."""
    failures: int
    """Background jobs that failed."""
    build_seconds: float
    """Time spent on building automata, in the background."""
    built_tokens: int
    live_sessions: int
    live_tokens: int
    history_tokens: int
    bytes: int
    """Of all automata and contexts."""
    marginal_cost: dict[int, float]
    """Measured cost of verification by batch size (a power of two)."""

    @property
    def drafted(self) -> int:
        """Drafted tokens."""
        return sum(source.drafted for source in self.sources.values())

    @property
    def accepted(self) -> int:
        """Drafted tokens that were right."""
        return sum(source.accepted for source in self.sources.values())
