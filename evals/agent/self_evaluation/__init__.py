"""`agentinfer bench self-evaluation`: what wrong Progress Checks cost."""
