"""`agentinfer bench calibration`: the cost of engine steps on this machine, measured."""
