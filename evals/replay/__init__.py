"""Replay of recorded and synthetic sessions against the real parts, without a model."""
