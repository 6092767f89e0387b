"""Settings of AgentSched inside the engine; `agentinfer_lg.serving.parts.settings` says how they get there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.parts.values import Scalar, changed_values, parse_values
from agentinfer_lg.serving.sched.policy.price import PriceSettings
from agentinfer_lg.serving.sched.policy.retention import RetentionSettings
from agentinfer_lg.serving.sched.policy.score import ScoreWeights

Order = Literal["score", "fcfs"]
"""Which waiting request comes first: the one with the best score, or the one that came first."""
Retention = Literal["soft", "hard", "off"]
"""How cached blocks of sessions that will return are kept: to the last, by force, or as vLLM does."""
Tuning = Literal["fixed", "adaptive"]
"""Whether `gain` and `lambda_max` stay as they are or follow what is observed."""


_PRICE, _SCORE, _RETENTION = PriceSettings(), ScoreWeights(), RetentionSettings()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a number may be."""

    low: float
    high: float
    strict: bool
    """Whether `low` itself is excluded."""

    def hold(self, value: float) -> bool:
        """Whether a value is within them."""
        above = value > self.low if self.strict else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"a number above {self.low:g}" if self.strict else f"a number, {self.low:g} or more"
        between = f"above {self.low:g}, up to" if self.strict else f"from {self.low:g} to"
        return f"a number {between} {self.high:g}"


def _number(
    default: float,
    *,
    least: float = 0,
    above: float | None = None,
    most: float = math.inf,
    flag: str = "",
    text: str = "",
) -> Any:  # Any: `field` has the type of the attribute
    """A setting that is a number, with its limits and, where there is one, its flag of `agentinfer serve`."""
    low = least if above is None else above
    limits = Limits(low, most, strict=above is not None)
    return field(default=default, metadata={"limits": limits, "flag": flag, "help": text})


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
    hit_weight: float = _number(_SCORE.hit, least=0)
    """Worth of a cached block (a)."""
    need_weight: float = _number(_SCORE.need, least=0)
    """Price of a block that is needed, without pressure (b)."""
    wait_weight: float = _number(_SCORE.wait, least=0)
    """Worth of a second of waiting (c)."""
    lambda_max: float = _number(_PRICE.max_price, above=0)
    """Highest price that pressure adds to a needed block."""
    gain: float = _number(_PRICE.gain, above=0)
    """How steeply the price rises with pressure (k)."""
    proportional: float = _number(_PRICE.proportional, least=0)
    """Weight of the present error in the smoothed price."""
    integral: float = _number(_PRICE.integral, least=0)
    """Weight of the errors so far."""
    smoothing: float = _number(_PRICE.smoothing, above=0, most=1)
    """Weight of the newest pressure in its moving average (beta)."""
    hysteresis: float = _number(_PRICE.hysteresis, least=0, most=1)
    """Share of `lambda_max` below which a change of the price is ignored."""
    max_wait_seconds: float = _number(
        20.0,
        above=0,
        flag="--sched-max-wait",
        text="Seconds after which a waiting request comes first, whatever it costs.",
    )
    """Wait after which a request comes first, whatever its score."""
    hard_pin_share: float = _number(0.3, least=0, most=0.9)
    """Most of the cache that retention `hard` may hold by force."""
    round_share: float = _number(1.0, least=0, most=10)
    """Share of a round of all sessions that the bound on waits grows to, where the engine is overloaded; 0: never."""
    keep_seconds: float = _number(_RETENTION.horizon_seconds, above=0)
    """At the highest price, a short context is kept while its session is expected back within this time."""
    reserve_share: float = _number(0.1, least=0, most=0.9)
    """Share of the cache that is never kept for idle sessions."""
    prefill_chunk_tokens: int = _number(2048, least=0)
    """Most tokens of one prompt per step while other requests wait; 0: vLLM's limit."""
    step_seconds: float = _number(1.0, least=0)
    """Prefill that a step may hold while another request runs or waits, in seconds; 0: vLLM's limit."""
    least_step_tokens: int = _number(256, above=0)
    """Tokens of prefill that it may always hold: the weights are read once per step, for however few tokens."""
    long_prefill_tokens: int = _number(4096, above=0)
    """Uncached tokens from which on a prompt is long; only one such is computed at a time."""
    overhead_share: float = _number(0.02, least=0, most=1)
    """Most of the time that planning may take; with many waiting requests not every step is planned. 0: every one is."""
    default_gap_seconds: float = _number(10.0, above=0)
    """Expected time until a session returns, where neither a hint nor experience tells."""
    max_gap_seconds: float = _number(300.0, above=0)
    """A session that stays away longer counts as not coming back."""

    def __post_init__(self) -> None:
        for each in fields(self):
            limits: Limits | None = each.metadata.get("limits")
            value = getattr(self, each.name)
            if limits is not None and not limits.hold(value):
                msg = f"the AgentSched setting {each.name} is {limits}, got {value}"
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
