"""Studies of AgentSched."""
