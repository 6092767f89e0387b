"""`agentinfer bench progress`: the verifier against labelled failures."""
