"""A proposer and the model runner that it belongs to."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

_NOTE = "_agentinfer_proposer"


@runtime_checkable
class BoundProposer(Protocol):
    """A proposer that wants to know its model runner."""

    def bind_runner(self, runner: object) -> None:
        """Called once, when the runner has been made; with it the proposer reads request ids."""

    def begin_step(self, scheduler_output: object) -> None:
        """Called before each step of the engine; must not raise."""

    def stats(self) -> dict[str, float]:
        """Return counters since the start."""


def note_proposer(runner: Any, proposer: BoundProposer) -> None:  # Any: vLLM's runner, without types for us
    """Note on the runner which proposer it was made with; the runner of another device may replace it."""
    setattr(runner, _NOTE, proposer)


def noted_proposer(runner: Any) -> BoundProposer | None:
    """Return the proposer that the runner was made with; None if there was none of ours."""
    noted: BoundProposer | None = getattr(runner, _NOTE, None)
    return noted
