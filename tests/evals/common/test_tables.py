"""Markdown tables."""

from agentinfer_lg.evals.common.tables import aligned, filled, table


def test_columns_stand_below_each_other() -> None:
    assert aligned([("a", "long head"), ("cell", "b")]) == [
        "| a    | long head |",
        "| ---- | --------- |",
        "| cell | b         |",
    ]


def test_rows_are_formatted_by_their_columns_and_unknown_figures_are_dashes() -> None:
    columns = (("n", "{n}"), ("share", "{share:.1%}"))
    lines = table([{"n": 3, "share": 0.25}, {"n": 4, "share": None}, {"n": 5}], columns)
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["25.0%", "-", "-"]


def test_an_unknown_figure_is_a_dash() -> None:
    assert (filled(None, ".2f"), filled(1.0, ".2f")) == ("-", "1.00")
