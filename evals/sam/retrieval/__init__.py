"""`agentinfer bench retrieval`: what finding similar sessions costs."""
