"""Fixtures for all tests."""

from hypothesis import settings

pytest_plugins = ["support.engine_fixture"]

# How long an example takes says something about the machine, not about the code.
settings.register_profile("agentinfer", deadline=None)
settings.load_profile("agentinfer")
