"""Replaces `vllm_ascend.worker.model_runner_v1.get_spec_decode_method`.

What: where Ascend's function does not know the method `custom_class`, it returns AgentSAM, dressed as Ascend's suffix
proposer. Every other method, and a proposer of somebody else, stays with Ascend's function.

Why: vLLM lets a proposer be named, but Ascend's model runner makes its own by this function, which knows no
`custom_class`, and asks each of them in its own way, chosen by class. The suffix proposer is asked as AgentSAM wants it:
after the tokens are known, with one list per request.

Off: `agentinfer serve --no-sam`, or `AGENTINFER_SAM=0` where `AGENTINFER=1` is set.

Until: all supported versions of vllm-ascend take `custom_class` as vLLM does. In one that does, this steps aside.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from agentinfer_lg.serving.ascend.symbols import known_symbol
from agentinfer_lg.serving.sam.vllm.binding import BoundProposer, noted_proposer

_MODULE = "vllm_ascend.worker.model_runner_v1"
_NAME = "get_spec_decode_method"
_MARK = "_agentinfer_replaces"


def patch_spec_decode_method() -> None:
    """Replace the function in the runner's module, which has it under a name of its own; once.

    Raises:
        EngineError: This vllm-ascend has not what is replaced or extended.
    """
    if hasattr(getattr(sys.modules.get(_MODULE), _NAME, None), _MARK):
        return
    make = _known(_NAME, ("method", "vllm_config", "device", "runner"))
    base = _known("AscendSuffixDecodingProposer", ("vllm_config", "runner"))
    ours = type("AgentSAMAscendProposer", (_Dressed, base), {"__module__": __name__})

    @functools.wraps(make)
    def make_proposer(method: str, vllm_config: Any, device: Any, runner: Any) -> Any:
        try:
            return make(method, vllm_config, device, runner)
        except ValueError as error:
            unknown = method == "custom_class" and method in str(error)
            proposer = _proposer(vllm_config, runner) if unknown else None
            if proposer is None:
                raise
            return ours(proposer)

    setattr(make_proposer, _MARK, True)
    setattr(sys.modules[_MODULE], _NAME, make_proposer)


class _Dressed:
    """What Ascend's runner asks of a proposer, answered by AgentSAM; goes before Ascend's class, which is never set up."""

    def __init__(self, proposer: Any) -> None:
        self.proposer = proposer
        self.load_model: Callable[..., None] = proposer.load_model
        self.dummy_run: Callable[..., None] = proposer.dummy_run

    def propose(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        """Return one draft per row of the batch; Ascend's versions pass different arguments."""
        drafts: list[list[int]] = self.proposer.propose(*args, **kwargs)
        return drafts

    def bind_runner(self, runner: object) -> None:
        """Pass the model runner on."""
        self.proposer.bind_runner(runner)

    def begin_step(self, scheduler_output: object) -> None:
        """Pass on what the next step computes."""
        self.proposer.begin_step(scheduler_output)

    def stats(self) -> dict[str, float]:
        """Return counters since the start."""
        counters: dict[str, float] = self.proposer.stats()
        return counters


def _known(name: str, parameters: tuple[str, ...]) -> Any:
    switch = "--no-sam, or AGENTINFER_SAM=0"
    return known_symbol(_MODULE, name, parameters=parameters, part="AgentSAM", switch=switch)


def _proposer(vllm_config: Any, runner: Any) -> Any:
    """The proposer that vLLM's part of the runner has made before, or else a new one; None if it is not ours."""
    proposer = noted_proposer(runner)
    if proposer is None:
        create = importlib.import_module("vllm.v1.spec_decode.custom_class_proposer").create_custom_proposer
        proposer = create(vllm_config)
    if not isinstance(proposer, BoundProposer):
        return None
    proposer.bind_runner(runner)
    return proposer
