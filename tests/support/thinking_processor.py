"""A logits processor of vLLM that ends every thought which the prompt has opened; loaded inside the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from support.thinking_model import CLOSED, OPENED, THOUGHT
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

__all__ = ("ThinkThenAnswer",)


class ThinkThenAnswer(AdapterLogitsProcessor):
    """Writes the thought token by token, closes it, and leaves the rest to the model."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        tokenizer: Any = cached_tokenizer_from_config(model_config=vllm_config.model_config)
        words = tokenizer.get_vocab()
        self._opened, self._closed = words[OPENED], words[CLOSED]
        self._thought = [*(words[token] for token in THOUGHT), self._closed]
        self._break = tokenizer.encode("\n\n", add_special_tokens=False)
        self._parsed = bool(vllm_config.structured_outputs_config.reasoning_parser)

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        if params.structured_outputs is None:
            return partial(self._write, [*self._thought, *self._break])
        # Without a parser the grammar holds from the first token, so that there is no room for a thought.
        return partial(self._write, self._thought) if self._parsed else None

    def _write(
        self, script: Sequence[int], prompt: Sequence[int], output: Sequence[int], logits: torch.Tensor
    ) -> torch.Tensor:
        marks = [token for token in prompt if token in (self._opened, self._closed)]
        if not marks or marks[-1] == self._closed or len(output) >= len(script):
            return logits
        forced = torch.full_like(logits, float("-inf"))
        forced[script[len(output)]] = 0.0
        return forced
