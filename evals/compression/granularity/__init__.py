"""`agentinfer bench granularity`: whether exact details survive distillation."""
