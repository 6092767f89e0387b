"""How much prefill a step may hold while somebody else runs or waits.

A step ends for all its requests at once: beside 2,000 tokens of prefill a request that decodes gets one token in all that
time. Where prefill is slow, as on CPUs, a short answer then takes as long as all prompts that came after it (stall-free
batching, Sarathi-Serve, OSDI 2024; here by time, as no number of tokens fits every machine).
"""

from __future__ import annotations


def prefill_limit(*, tokens_per_second: float, step_seconds: float, least: int) -> int | None:
    """Return the most tokens of prefill in a step; `None`: as many as vLLM allows.

    Args:
        tokens_per_second: Speed of prefill; 0 while it is unknown.
        step_seconds: How long a step may take; 0: as long as it likes.
        least: Tokens that a step may always hold.
    """
    if not tokens_per_second or not step_seconds:
        return None
    return max(least, int(tokens_per_second * step_seconds))
