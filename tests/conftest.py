"""Fixtures for all tests, and which of them may run side by side."""

import pytest
from engine_fixture import ENGINE_FIXTURES
from hypothesis import settings

pytest_plugins = ["engine_fixture"]

# How long an example takes says something about the machine, not about the code.
settings.register_profile("agentinfer", deadline=None)
settings.load_profile("agentinfer")


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares something dear when tests run in several processes (`--dist loadgroup`).

    Tests with a real engine share one and the cores; the others of a file share its fixtures and heavy imports.
    """
    for item in items:
        real = item.get_closest_marker("engine") or ENGINE_FIXTURES & set(getattr(item, "fixturenames", ()))
        group = "engine" if real else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
