"""LangGraph graphs: the seeker and the deep-research graph around it."""
