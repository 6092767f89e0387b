"""AgentSched inside vLLM: the scheduler, its view of the prefix cache, the queue, the flags and the figures."""
