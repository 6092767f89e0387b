"""A request that is drafted for."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.index.automaton import ROOT, SuffixAutomaton
from agentinfer_lg.serving.sam.index.live import LiveSession
from agentinfer_lg.serving.sam.types import IntArray


@dataclass(slots=True, eq=False)
class DraftedRequest:
    """A request between the start and the finish of its drafting."""

    name: str
    prompt: IntArray
    hints: SessionHints
    outputs: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    """Verified tokens that wait for the automaton."""
    row: int = -1
    """Row in the step's arrays; -1 while the automaton is being built."""
    live: LiveSession | None = None
    tip: int = ROOT
    automata: list[SuffixAutomaton] = field(default_factory=list)
    """Keeps alive what the row points to."""
    _over: bool = False

    def end(self) -> None:
        """Tell the background thread that the request is over."""
        self._over = True

    def is_over(self) -> bool:
        """Return whether the request is over; another thread may end it at any time."""
        return self._over
