"""`agentinfer bench ablation`: every part on and off on a real engine, end to end."""
