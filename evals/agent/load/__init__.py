"""`agentinfer bench load`: many questions at the same time."""
