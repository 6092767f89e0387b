"""The path of AgentSAM's worker extension in the flags of vLLM."""

from agentinfer_lg.serving.sam.vllm.extension import AgentInferWorkerExtension

__all__ = ("AgentInferWorkerExtension",)
