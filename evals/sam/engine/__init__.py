"""`agentinfer bench engine`: variants of speculation on one real engine."""
