"""The path of AgentSched's scheduler in the flags of vLLM."""

from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

__all__ = ("make_scheduler",)
