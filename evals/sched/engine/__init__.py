"""`agentinfer bench sched-engine`: AgentSched and FCFS on a real engine."""
