"""AgentCollab, the pure part: which of the two models acts next, and what decides it (paper, Algorithm 1)."""
