"""`agentinfer eval`: benchmarks of the whole agent."""
