"""The policy of AgentSched: price, score, retention, admission, sessions; plain Python."""
