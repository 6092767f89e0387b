"""What one engine step costs on a machine: a roofline model, with presets.

A step takes the time of its arithmetic or of its memory traffic, whichever is longer, plus a fixed overhead. Arithmetic
grows with the tokens computed and with the context each of them attends to; memory traffic is the weights once, and the
cached context of every request once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentinfer_lg.errors import UserInputError

__all__ = ("PRESETS", "Hardware", "find_preset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A model on a machine."""

    name: str
    weight_bytes: float
    """Bytes of the weights read in each step, over all devices."""
    kv_bytes: float
    """Bytes of the KV cache per token, over all devices."""
    token_flops: float
    """Floating point operations per token, without attention."""
    attention_flops: float
    """Floating point operations per pair of a token and one it attends to."""
    flops_per_second: float
    """Usable arithmetic of all devices together."""
    bytes_per_second: float
    """Usable memory bandwidth of all devices together."""
    overhead_seconds: float
    """Fixed time of a step: launches, sampling, communication, scheduling."""
    kv_tokens: int
    """Tokens that the KV cache holds."""
    step_tokens: int = 8192
    """Most tokens computed in one step (`max_num_batched_tokens`)."""
    max_seqs: int = 256
    """Most requests computed together (`max_num_seqs`)."""

    def step_seconds(self, work: Iterable[tuple[int, int]], *, steps: int = 1) -> float:
        """Return how long `steps` equal steps take.

        Args:
            work: For each request the tokens computed in one step, and the context in tokens after it.
            steps: Number of steps.
        """
        tokens = pairs = read = 0.0
        for new, context in work:
            tokens += new
            pairs += new * (context - (new - 1) / 2)
            read += context
        arithmetic = (tokens * self.token_flops + pairs * self.attention_flops) / self.flops_per_second
        traffic = (self.weight_bytes + read * self.kv_bytes) / self.bytes_per_second
        return steps * (self.overhead_seconds + max(arithmetic, traffic))


def _preset(
    name: str,
    *,
    parameters: float,
    layers: int,
    heads: int,
    kv_heads: int,
    head_size: int = 128,
    memory_bytes: float,
    peak_flops: float,
    peak_bandwidth: float,
    compute_share: float = 0.5,
    bandwidth_share: float = 0.7,
    overhead_seconds: float = 0.004,
    weight_size: int = 2,
    step_tokens: int = 8192,
) -> Hardware:
    weights = parameters * weight_size
    kv_bytes = 2 * layers * kv_heads * head_size * 2
    return Hardware(
        name=name,
        weight_bytes=weights,
        kv_bytes=kv_bytes,
        token_flops=2 * parameters,
        attention_flops=4 * layers * heads * head_size,
        flops_per_second=peak_flops * compute_share,
        bytes_per_second=peak_bandwidth * bandwidth_share,
        overhead_seconds=overhead_seconds,
        # nine tenths of the memory, without the weights and a tenth for activations and the graph pool
        kv_tokens=int((memory_bytes * 0.8 - weights) / kv_bytes),
        step_tokens=step_tokens,
    )


PRESETS = {
    preset.name: preset
    for preset in (
        _preset(
            "ascend-910b3-7b-tp2",
            parameters=7.6e9,
            layers=34,
            heads=32,
            kv_heads=8,
            memory_bytes=2 * 64e9,
            peak_flops=2 * 313e12,
            peak_bandwidth=2 * 1.6e12,
            overhead_seconds=0.008,
        ),
        _preset(
            "h100-7b",
            parameters=7.6e9,
            layers=28,
            heads=28,
            kv_heads=4,
            memory_bytes=80e9,
            peak_flops=989e12,
            peak_bandwidth=3.35e12,
        ),
        _preset(
            "h100-70b-tp4",
            parameters=70.6e9,
            layers=80,
            heads=64,
            kv_heads=8,
            memory_bytes=4 * 80e9,
            peak_flops=4 * 989e12,
            peak_bandwidth=4 * 3.35e12,
            overhead_seconds=0.008,
        ),
    )
}
"""Machines by name. Peak figures are the vendors'; shares of them are what serving engines commonly reach."""


def find_preset(name: str) -> Hardware:
    """Return the preset `name`.

    Raises:
        UserInputError: There is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        msg = f"there is no machine {name!r}; there are {', '.join(sorted(PRESETS))}"
        raise UserInputError(msg) from None
