"""Servers that do what their documentation says."""

from pathlib import Path

import pytest
from support.stand_in.profile import LEVELS, Profile, prove, rows

PROFILES = (
    Profile(
        name="all as documented",
        report="https://platform.openai.com/docs/api-reference/chat",
        levels=LEVELS,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
