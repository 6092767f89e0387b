"""AgentSAM: speculative decoding from suffix automata over this session and earlier ones (paper, Algorithm 4).

The compiled parts need numba, which must not be imported in a vLLM worker before the worker has set it up; so nothing
is imported here.
"""
