"""`agentinfer bench overhead` and `bench price`: what planning costs, and how the price answers a load."""
