"""Settings of AgentSAM inside the engine; `agentinfer_lg.serving.parts.settings` says how they get there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.parts.values import Scalar, changed_values, parse_values

Mode = Literal["calibrated", "paper"]
"""How drafts are chosen: by learned acceptance, or by the fixed rule of the paper."""

MAX_DRAFT_LIMIT = 64
"""The drafter's limit of drafted tokens per request and step; vLLM's own is 128."""
MAX_SIMILAR = 8
"""The drafter's limit of similar sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSettings:
    """What to draft from, and how far."""

    mode: Mode = "calibrated"
    max_draft: int = field(
        default=16,
        metadata={
            "flag": "--sam-max-draft",
            "help": "Most drafted tokens per request and step; default: {default}.",
        },
    )
    """Most drafted tokens per request and step."""
    marginal_cost: float | None = None
    """Cost of verifying one more token, as a share of a step; None: measured while serving."""
    own: bool = True
    """Whether drafts may come from the session itself."""
    history: bool = True
    """Whether drafts may come from finished sessions."""
    top_k: int = 0
    """Number of similar sessions that are an extra source."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_draft <= MAX_DRAFT_LIMIT:
            msg = f"AgentSAM drafts 1 to {MAX_DRAFT_LIMIT} tokens per step, got max_draft={self.max_draft}"
            raise ConfigurationError(msg)
        if self.marginal_cost is not None and not 0 <= self.marginal_cost <= 100:
            msg = f"marginal_cost is a share of a step, 0 or more, got {self.marginal_cost}"
            raise ConfigurationError(msg)
        if not 0 <= self.top_k <= MAX_SIMILAR:
            msg = f"AgentSAM drafts from at most {MAX_SIMILAR} similar sessions, got top_k={self.top_k}"
            raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamConfig(DraftSettings):
    """Settings that an operator may change; all are plain scalars."""

    embeddings_url: str = ""
    """OpenAI-compatible endpoint that tells which sessions are similar; empty: min-hashes do, built in."""
    embeddings_model: str = ""
    """Model to ask there. The key, if one is needed, is in the variable `AGENTINFER_SAM_EMBEDDINGS_KEY`."""
    memory: str = field(
        default="",
        metadata={
            "flag": "--sam-memory",
            "help": "Folder that keeps token ids of finished sessions, or `off`; default: user cache.",
        },
    )
    """Folder of the session memory, `off` for none on disk; empty: a folder in the user's cache."""
    memory_tokens: int = field(
        default=20_000_000,
        metadata={
            "flag": "--sam-memory-tokens",
            "help": "Most tokens of finished sessions that are kept.",
        },
    )
    """Most tokens of finished sessions that are kept."""
    memory_days: float = 30.0
    """Age in days at which a finished session is forgotten."""

    def __post_init__(self) -> None:
        DraftSettings.__post_init__(self)
        if bool(self.embeddings_url) != bool(self.embeddings_model):
            msg = "embeddings_url and embeddings_model belong together: give both or none"
            raise ConfigurationError(msg)
        if self.memory_tokens < 0 or self.memory_days <= 0:
            msg = "memory_tokens must not be negative, and memory_days must be above 0"
            raise ConfigurationError(msg)

    @classmethod
    def parse(cls, values: object) -> Self:
        """Read settings as they were given.

        Args:
            values: A mapping of field names to scalars, or None for the defaults.

        Raises:
            ConfigurationError: It is no mapping, a key is unknown, or a value has the wrong type or is out of range.
        """
        return parse_values(cls, values, part="AgentSAM")

    def to_values(self) -> dict[str, Scalar]:
        """Return the settings that differ from the defaults, as `parse` reads them."""
        return changed_values(self)
