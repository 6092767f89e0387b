"""`agentinfer bench sched`: workloads replayed against vLLM's scheduler and cache, without a model."""
