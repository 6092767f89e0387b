"""The score by which AgentSched orders waiting requests (Algorithm 3 of the AgentInfer paper)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWeights:
    """Weights of the score; the paper's letters stand beside them."""

    hit: float = 0.1
    """a: per cached block. Much smaller than `need`, or a shadow price of 0 would not be shortest-job-first."""
    need: float = 1.0
    """b: per block of demand, at a shadow price of 0."""
    wait: float = 0.05
    """c: per second of waiting."""


def request_score(
    *,
    hit_blocks: int,
    need_blocks: int,
    prompt_blocks: float,
    wait_seconds: float,
    price: float,
    max_price: float,
    weights: ScoreWeights,
) -> float:
    """Return the score of a waiting request; the highest goes first.

    At a price of 0 this is shortest job first by prompt length. At `max_price` only new blocks count, and they are dear.

    Args:
        hit_blocks: Cached blocks of its prompt.
        need_blocks: New blocks that it needs.
        prompt_blocks: Length of its prompt in blocks.
        wait_seconds: Time that it has waited.
        price: Shadow price of a block (lambda), from 0 to `max_price`.
        max_price: Largest shadow price (lambda_max).
        weights: Weights of the score.
    """
    shortest = min(1.0, max(0.0, 1.0 - price / max_price))
    need = shortest * prompt_blocks + (1.0 - shortest) * need_blocks
    return weights.hit * hit_blocks - (weights.need + price) * need + weights.wait * wait_seconds
