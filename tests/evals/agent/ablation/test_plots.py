"""Charts of an ablation."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ablation_cells import cell, many_cells, record

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.ablation.plots import draw_ablation
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS

with_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


@pytest.fixture
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib's own dependencies
        yield


@with_matplotlib
@pytest.mark.usefixtures("_quiet")
class TestCharts:
    @pytest.mark.parametrize("form", ["svg", "png"])
    def test_are_drawn_the_same_every_time(self, tmp_path: Path, form: Any) -> None:
        cells = many_cells((1, 8))
        files = draw_ablation(cells, tmp_path / "new" / "plots", form=form)
        assert [file.name for file in files] == [
            f"{name}.{form}" for name in ("speedup", "tokens", "seconds")
        ]
        before = [file.read_bytes() for file in files]
        assert [file.read_bytes() for file in draw_ablation(cells, tmp_path, form=form)] == before
        assert all(2_000 < len(content) < 300_000 for content in before)

    def test_without_a_baseline_no_speed_up_is_drawn(self, tmp_path: Path) -> None:
        files = draw_ablation([cell("all", 1, [record("a", 10)])], tmp_path)
        assert [file.name for file in files] == ["tokens.svg", "seconds.svg"]

    def test_gaps_and_failures_leave_a_bar_out(self, tmp_path: Path) -> None:
        cells = [
            cell("baseline", 1, [record("a", 10)]),
            cell("one-shot", 1, [record("a", 10, failed=True)]),
            cell("all", 1, [record("a", 5)]),
            cell("baseline", 4, [record("a", 10)]),
            cell("+collab", 8, [record("a", 10)]),
        ]
        assert len(draw_ablation(cells, tmp_path)) == 3

    def test_each_configuration_has_a_colour_of_its_own(self) -> None:
        assert len(CONFIGURATIONS) <= 10


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match=r"pip install 'agentinfer-lg\[evals\]'"):
        draw_ablation(many_cells(), tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
