"""`agentinfer bench client`: the processor time that a model call costs the agent's own process."""
