"""What AgentSAM drafts: sources, acceptance, cost, and one step for a whole batch; knows nothing of vLLM."""
