"""`agentinfer bench verification`: what verifying a drafted token costs."""
