"""How many tokens of prefill the engine computes per second, measured while it serves."""

from __future__ import annotations


class PrefillSpeed:
    """A running mean over steps that were mostly prefill."""

    _LEAST_TOKENS = 256
    """Smaller steps are mostly decode."""
    _WEIGHT_TOKENS = 200_000.0
    """Tokens over which the mean forgets."""

    def __init__(self) -> None:
        self.tokens_per_second = 0.0
        """Speed of prefill; 0 until it is known."""
        self._tokens = 0
        self._began = 0.0
        self._sum_tokens = 0.0
        self._sum_seconds = 0.0

    def step_began(self, tokens: int, now: float) -> None:
        """Note that a step with `tokens` tokens of prefill was scheduled."""
        self._tokens, self._began = tokens, now

    def step_ended(self, now: float) -> None:
        """Note that the step is done."""
        if self._tokens >= self._LEAST_TOKENS and now > self._began:
            keep = max(0.0, 1.0 - self._tokens / self._WEIGHT_TOKENS)
            self._sum_tokens = self._sum_tokens * keep + self._tokens
            self._sum_seconds = self._sum_seconds * keep + now - self._began
            self.tokens_per_second = self._sum_tokens / self._sum_seconds
        self._tokens = 0
