"""`agentinfer bench compress`: a long session with context compression and without."""
