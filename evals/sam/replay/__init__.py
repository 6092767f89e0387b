"""`agentinfer bench sam`: recorded sessions replayed against drafters, without a model."""
