"""The path of AgentSAM's proposer in the flags of vLLM."""

from agentinfer_lg.serving.sam.vllm.proposer import AgentSAMProposer

__all__ = ("AgentSAMProposer",)
