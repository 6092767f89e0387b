"""What one engine step costs on a machine: a roofline model, with presets.

A step takes the time of its arithmetic or of its memory traffic, whichever is longer, plus a fixed overhead. Arithmetic
grows with the tokens computed and with the context each of them attends to; memory traffic is the weights once, and the
cached context of every request once. On a machine that cannot do both at a time, a step takes the sum of the two.

Where the figures of the presets come from:

* H100 SXM (80 GB): 989 TFLOPS dense in bf16 and 3.35 TB/s, NVIDIA's figures, verified at
  https://glennklockwood.com/garden/processors/h100.
* Ascend 910B3 (64 GB): 313 TFLOPS in fp16 and 1.6 TB/s. Not verified: published tables name from 256 to 320 TFLOPS for
  the 910B family, and the vendor's own data sheet was not found.
* Qwen2.5-7B (28 layers, 28 heads, 4 for keys and values) and Llama-3.1-70B (80, 64, 8), verified in their config.json;
  openPangu-Embedded-7B (34, 32, 8), verified in its model card,
  https://huggingface.co/openpangu/openPangu-Embedded-7B-model.
* The shares of the peak figures and the fixed overhead are assumptions, not measurements.
* `cpu-smollm2-135m` is fitted to a real engine by `agentinfer bench calibration`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentinfer_lg.errors import UserInputError


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
    attention_flops_per_second: float | None = None
    """Usable arithmetic in attention, where it differs; None: as elsewhere."""
    overlap: bool = True
    """Whether arithmetic and memory traffic run at the same time."""

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
        attention = pairs * self.attention_flops / (self.attention_flops_per_second or self.flops_per_second)
        arithmetic = tokens * self.token_flops / self.flops_per_second + attention
        traffic = (self.weight_bytes + read * self.kv_bytes) / self.bytes_per_second
        busy = max(arithmetic, traffic) if self.overlap else arithmetic + traffic
        return steps * (self.overhead_seconds + busy)


def model_hardware(
    config: Mapping[str, Any], *, name: str, kv_tokens: int, step_tokens: int = 2048
) -> Hardware:
    """Return a dense model, in 16 bits, on a machine that still has to be measured: its rates are 1 and its overhead 0.

    Args:
        config: The model's config.json.
        name: Of the machine with the model.
        kv_tokens: Tokens that the KV cache holds.
        step_tokens: Most tokens computed in one step.

    Raises:
        UserInputError: It is not the configuration of a dense transformer.
    """
    try:
        hidden, layers, heads = (
            int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        inner, vocabulary = int(config["intermediate_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"the model's config.json is not that of a dense transformer: {error} is missing or no number"
        raise UserInputError(msg) from None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_size = int(config.get("head_dim") or hidden // heads)
    attention = 2 * hidden * (heads + kv_heads) * head_size
    parameters = layers * (attention + 3 * hidden * inner) + hidden * vocabulary
    return Hardware(
        name=name,
        weight_bytes=2.0 * parameters,
        kv_bytes=2.0 * 2 * layers * kv_heads * head_size,
        token_flops=2.0 * parameters,
        attention_flops=4.0 * layers * heads * head_size,
        flops_per_second=1.0,
        bytes_per_second=1.0,
        overhead_seconds=0.0,
        kv_tokens=kv_tokens,
        step_tokens=step_tokens,
    )


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
            parameters=7.4e9,  # without the embeddings, which are looked up
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
        Hardware(
            name="cpu-smollm2-135m",
            weight_bytes=2 * 134.5e6,
            kv_bytes=2 * 30 * 3 * 64 * 2,
            token_flops=2 * 134.5e6,
            attention_flops=4 * 30 * 9 * 64,
            flops_per_second=940e9,
            attention_flops_per_second=392e9,
            bytes_per_second=18.9e9,
            overhead_seconds=0.0,
            overlap=False,
            kv_tokens=24_576,
            step_tokens=2048,
            max_seqs=128,
        ),
    )
}
"""Machines by name; see the module for where their figures come from."""


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
