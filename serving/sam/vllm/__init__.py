"""AgentSAM inside vLLM: the proposer, the worker extension, the flags and the figures."""
