"""AgentSched: the order of requests and the fate of their cache blocks, chosen by who comes back and what it costs.

The pure parts import without vLLM; `scheduler` is what vLLM loads.
"""
