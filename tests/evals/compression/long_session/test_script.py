"""What a long session searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.compression.long_session.script import make_script


def documents(folder: Path, count: int) -> Path:
    for number in range(count):
        text = (
            f'# Place {number} (town)\n\nIt has {number} mills, "old" ones. {"They stand by the river. " * 6}'
        )
        (folder / f"{number:03d}.md").write_text(text, encoding="utf-8")
    return folder


def test_searches_are_spread_over_the_folder(tmp_path: Path) -> None:
    script = make_script(documents(tmp_path, 20), rounds=4)
    assert [search.split(" It")[0] for search in script.searches] == [
        "Place 0 town",
        "Place 5 town",
        "Place 10 town",
        "Place 15 town",
    ]
    assert script.searches[1].startswith("Place 5 town It has 5 mills, old ones They stand")
    assert script.question == "What do the documents tell about Place 0 town, Place 5 town and Place 10 town?"


def test_what_has_nothing_to_search_for_is_left_out(tmp_path: Path) -> None:
    documents(tmp_path, 3)
    (tmp_path / "short.md").write_text("# Nothing\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + b"0" * 500)
    assert len(make_script(tmp_path, rounds=3).searches) == 3
    with pytest.raises(UserInputError, match="3 text documents, too few for 4 rounds"):
        make_script(tmp_path, rounds=4)
