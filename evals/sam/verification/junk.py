"""A proposer whose drafts are random tokens: they are verified at full cost, and rejected.

Only for measurements: how many tokens are drafted is said by each request, in `vllm_xargs` under `junk_tokens`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

JUNK_TOKENS = "junk_tokens"
"""Name among `vllm_xargs`: how many tokens are drafted in each step of the request."""


class JunkProposer:
    """A proposer of vLLM's method `custom_class`; needs the worker extension of AgentSAM, which binds it."""

    def __init__(self, vllm_config: Any) -> None:  # Any: vLLM's types are not ours
        self._vocabulary = int(vllm_config.model_config.get_vocab_size())
        self._most = int(vllm_config.speculative_config.num_speculative_tokens)
        self._random = random.Random(0)
        self._runner: Any = None

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load nothing."""

    def dummy_run(self, *args: object, **kwargs: object) -> None:
        """Run nothing."""

    def bind_runner(self, runner: object) -> None:
        """Read what requests say from vLLM's model runner."""
        self._runner = runner

    def begin_step(self, scheduler_output: object) -> None:
        """Do nothing."""

    def stats(self) -> dict[str, float]:
        """Nothing is counted."""
        return {}

    def propose(
        self, sampled_token_ids: Sequence[Sequence[int]], *args: object, **kw: object
    ) -> list[list[int]]:
        """Return as many random tokens as each request wants; none where it is still being prefilled."""
        names = self._runner.input_batch.req_ids if self._runner is not None else ()
        wanted = [self._wanted(name) for name in names]
        return [
            [self._random.randrange(self._vocabulary) for _ in range(count if sampled else 0)]
            for sampled, count in zip(sampled_token_ids, wanted, strict=False)
        ]

    def _wanted(self, request: str) -> int:
        params = self._runner.requests[request].sampling_params
        return min(int(((params and params.extra_args) or {}).get(JUNK_TOKENS, 0)), self._most)
