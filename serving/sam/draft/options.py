"""What a drafter is told: the operator's settings of drafting, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.config import DraftSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterOptions(DraftSettings):
    """What to draft from, how far, and how much to remember."""

    history_tokens: int = 10_000_000
    """Most tokens in the automata of the history, all tenants together; about 65 bytes each."""
    live_tokens: int = 10_000_000
    """Most tokens in the automata of sessions that go on."""
    similar_sessions: int = 10_000
    """Most finished sessions to choose similar ones from, in at most `history_tokens` tokens."""
    idle_seconds: float = 600.0
    """A session without a request for so long is taken for finished."""
    save_seconds: float = 5.0
    """A session without a request for so long is written to memory, though it may go on."""
    paper_draft: int = 3
    paper_max_context: int = 131_072
    paper_max_batch: int = 16

    def __post_init__(self) -> None:
        DraftSettings.__post_init__(self)
        for name in ("history_tokens", "live_tokens", "similar_sessions", "idle_seconds", "save_seconds"):
            if getattr(self, name) < 0:
                msg = f"{name} must not be negative, got {getattr(self, name)}"
                raise ConfigurationError(msg)

    @classmethod
    def of(cls, settings: DraftSettings, *, memory_tokens: int) -> Self:
        """Return the options of an engine's drafter.

        Args:
            settings: Of the operator.
            memory_tokens: Tokens that the session memory holds: the history needs no more.
        """
        same = {each.name: getattr(settings, each.name) for each in fields(DraftSettings)}
        return cls(**same, history_tokens=min(memory_tokens, cls().history_tokens))

    @property
    def uses_history(self) -> bool:
        """Whether drafts come from the text of finished sessions."""
        return self.history and self.mode == "calibrated"
