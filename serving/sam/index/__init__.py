"""What AgentSAM drafts from: suffix automata of live and finished sessions, session memory, similar sessions."""
