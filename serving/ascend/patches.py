"""When the patches are applied: in a worker of vLLM-Ascend, and nowhere else.

Never while vLLM's plugins are loaded: importing Ascend's modules then would change the order of its own patches, and
fails at a circle of imports.
"""

from __future__ import annotations

import sys

from agentinfer_lg.serving.ascend.spec_decode_method import patch_spec_decode_method


def patch_worker() -> None:
    """Apply all patches if Ascend's worker is loaded: what does not fit is known before the worker is made.

    Raises:
        EngineError: This vllm-ascend has not what is replaced.
    """
    if "vllm_ascend.worker.worker" in sys.modules:
        patch_spec_decode_method()


def patch_runner(runner_class: type) -> None:
    """Apply all patches, if it has not been done, before a model runner of Ascend is made; other runners need none.

    Args:
        runner_class: Class of the runner.

    Raises:
        EngineError: This vllm-ascend has not what is replaced.
    """
    if runner_class.__module__.partition(".")[0] == "vllm_ascend":
        patch_spec_decode_method()
