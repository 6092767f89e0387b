"""Studies of the whole agent."""
