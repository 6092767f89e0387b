"""Studies of AgentCompress."""
