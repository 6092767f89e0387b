"""Settings of AgentSched inside the engine; `agentinfer_lg.serving.parts.settings` says how they get there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.parts.values import Scalar, changed_values, parse_values

Order = Literal["score", "fcfs"]
"""Which waiting request comes first: the one with the best score, or the one that came first."""
Retention = Literal["soft", "hard", "off"]
"""How cached blocks of sessions that will return are kept: to the last, by force, or as vLLM does."""
Tuning = Literal["fixed", "adaptive"]
"""Whether `gain` and `lambda_max` stay as they are or follow what is observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedConfig:
    """Settings that an operator may change; all are plain scalars.

    `hit_weight`, `need_weight`, `wait_weight`, `lambda_max` and `gain` are a, b, c, lambda_max and k of the
    AgentInfer paper, algorithm 3.
    """

    order: Order = "score"
    retention: Retention = "soft"
    admission: bool = True
    """Whether a session is held back while letting it in would evict more than it brings."""
    victims: bool = True
    """Whether the request that must give way is chosen by its cost."""
    draft_cut: bool = True
    """Whether drafts get shorter under pressure."""
    tuning: Tuning = "fixed"
    hit_weight: float = 0.1
    """Worth of a cached block (a)."""
    need_weight: float = 1.0
    """Price of a block that is needed, without pressure (b)."""
    wait_weight: float = 0.05
    """Worth of a second of waiting (c)."""
    lambda_max: float = 4.0
    """Highest price that pressure adds to a needed block."""
    gain: float = 4.0
    """How steeply the price rises with pressure (k)."""
    proportional: float = 0.3
    """Weight of the present error in the smoothed price."""
    integral: float = 0.02
    """Weight of the errors so far."""
    smoothing: float = 0.3
    """Weight of the newest pressure in its moving average (beta)."""
    hysteresis: float = 0.05
    """Share of `lambda_max` below which a change of the price is ignored."""
    max_wait_seconds: float = 20.0
    """Wait after which a request comes first, whatever its score."""
    hard_pin_share: float = 0.3
    """Most of the cache that retention `hard` may hold by force."""
    round_share: float = 1.0
    """Share of a round of all sessions that the bound on waits grows to, where the engine is overloaded; 0: never."""
    keep_seconds: float = 30.0
    """At the highest price, a short context is kept while its session is expected back within this time."""
    reserve_share: float = 0.1
    """Share of the cache that is never kept for idle sessions."""
    prefill_chunk_tokens: int = 2048
    """Most tokens of one prompt per step while other requests wait; 0: vLLM's limit."""
    step_seconds: float = 1.0
    """Prefill that a step may hold while another request runs or waits, in seconds; 0: vLLM's limit."""
    least_step_tokens: int = 256
    """Tokens of prefill that it may always hold: the weights are read once per step, for however few tokens."""
    long_prefill_tokens: int = 4096
    """Uncached tokens from which on a prompt is long; only one such is computed at a time."""
    overhead_share: float = 0.02
    """Most of the time that planning may take; with many waiting requests not every step is planned. 0: every one is."""
    default_gap_seconds: float = 10.0
    """Expected time until a session returns, where neither a hint nor experience tells."""
    max_gap_seconds: float = 300.0
    """A session that stays away longer counts as not coming back."""

    def __post_init__(self) -> None:
        for name, (low, high, strict) in _RANGES.items():
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high or (strict and value == low):
                msg = f"the AgentSched setting {name} is {_range(low, high, strict=strict)}, got {value}"
                raise ConfigurationError(msg)

    @classmethod
    def parse(cls, values: object) -> Self:
        """Read settings as they were given.

        Args:
            values: A mapping of field names to scalars, or None for the defaults.

        Raises:
            ConfigurationError: It is no mapping, a key is unknown, or a value has the wrong type or is out of range.
        """
        return parse_values(cls, values, part="AgentSched")

    def to_values(self) -> dict[str, Scalar]:
        """Return the settings that differ from the defaults, as `parse` reads them."""
        return changed_values(self)


def _range(low: float, high: float, *, strict: bool) -> str:
    if math.isinf(high):
        return f"a number above {low:g}" if strict else f"a number, {low:g} or more"
    return f"a number above {low:g}, up to {high:g}" if strict else f"a number from {low:g} to {high:g}"


_RANGES: dict[str, tuple[float, float, bool]] = {
    "hit_weight": (0, math.inf, False),
    "need_weight": (0, math.inf, False),
    "wait_weight": (0, math.inf, False),
    "lambda_max": (0, math.inf, True),
    "gain": (0, math.inf, True),
    "proportional": (0, math.inf, False),
    "integral": (0, math.inf, False),
    "smoothing": (0, 1, True),
    "hysteresis": (0, 1, False),
    "max_wait_seconds": (0, math.inf, True),
    "hard_pin_share": (0, 0.9, False),
    "round_share": (0, 10, False),
    "keep_seconds": (0, math.inf, True),
    "reserve_share": (0, 0.9, False),
    "prefill_chunk_tokens": (0, math.inf, False),
    "step_seconds": (0, math.inf, False),
    "least_step_tokens": (0, math.inf, True),
    "long_prefill_tokens": (0, math.inf, True),
    "overhead_share": (0, 1, False),
    "default_gap_seconds": (0, math.inf, True),
    "max_gap_seconds": (0, math.inf, True),
}
"""Lowest and highest value of each number, and whether the lowest itself is excluded."""
