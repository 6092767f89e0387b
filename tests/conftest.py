"""Fixtures for all tests."""

import pytest
from hypothesis import settings

from agentinfer_lg.llm.known_endpoints import forget_endpoints

pytest_plugins = ["support.engine_fixture"]

# How long an example takes says something about the machine, not about the code.
settings.register_profile("agentinfer", deadline=None)
settings.load_profile("agentinfer")


@pytest.fixture(autouse=True)
def _new_servers() -> None:
    """Servers of different tests may have the same port: what one of them refused says nothing about the next."""
    forget_endpoints()
