"""Studies of AgentSAM."""
