"""Samples become series and rows."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.load.figures import HeldFigures, load_rows, load_series
from agentinfer_lg.evals.agent.load.run import LoadCell
from agentinfer_lg.evals.common.metrics_page import ServerState
from agentinfer_lg.evals.common.server_samples import Sample


@st.composite
def states(draw: st.DrawFn) -> ServerState:
    queries = draw(st.integers(0, 1000))
    return ServerState(
        running=draw(st.integers(0, 20)),
        kv_usage=draw(st.floats(0, 1)),
        cache_queries=queries,
        cache_hits=draw(st.integers(0, queries)),
        price=draw(st.one_of(st.none(), st.floats(0, 4))),
    )


@st.composite
def cells(draw: st.DrawFn) -> LoadCell:
    """Counters may begin again and pages may be missing, at any time."""
    count = draw(st.integers(1, 10))
    gaps = draw(st.lists(st.floats(0.01, 9), min_size=count, max_size=count))
    done = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    servers = st.dictionaries(st.sampled_from(["large", "small"]), states())
    samples = [
        Sample(time=sum(gaps[:place]), finished=sum(done[1 : place + 1]), servers=draw(servers))
        for place in range(count)
    ]
    return cell(samples)


def cell(samples: list[Sample], *, n: int = 4, configuration: str = "all") -> LoadCell:
    return LoadCell(
        configuration=configuration,
        n=n,
        seconds=samples[-1].time,
        questions=[{"seconds": float(number), "result": {}} for number in range(1, 5)],
        samples=samples,
    )


def over_time(*states: ServerState | None, seconds: float = 2.0) -> LoadCell:
    return cell(
        [
            Sample(time=seconds * place, finished=place, servers={} if state is None else {"large": state})
            for place, state in enumerate(states)
        ]
    )


@given(cell=cells(), window=st.floats(0.5, 200))
def test_series_have_a_value_or_a_gap_per_sample(cell: LoadCell, window: float) -> None:
    series = load_series(cell, window_seconds=window)
    columns = (series.qps, series.hit_rate, series.hit_rate_so_far, series.running, series.kv_usage)
    assert {len(column) for column in columns} == {len(cell.samples)}
    tiers = {tier for sample in cell.samples for tier in sample.servers}
    for place, sample in enumerate(cell.samples):
        missing = not tiers or any(tier not in sample.servers for tier in tiers)
        assert (series.running[place] is None) == missing
        if missing:
            assert series.hit_rate[place] is None
    assert all(0 <= rate <= 1 for rate in (*series.hit_rate, *series.hit_rate_so_far) if rate is not None)
    json.dumps([series.to_json(), load_rows([cell])[0].to_json()], allow_nan=False)


@given(cell=cells(), window=st.floats(0.5, 200))
def test_qps_times_its_window_are_the_questions_in_it(cell: LoadCell, window: float) -> None:
    series = load_series(cell, window_seconds=window)
    assert series.qps[0] is None
    for place in range(1, len(series.times)):
        now = series.times[place]
        starts = [n for n in range(place) if series.times[n] <= now - window] or [0]
        start = starts[-1]
        rate = series.qps[place]
        if rate is None:
            assert 2 * now < min(window, series.times[-1])
            continue
        in_it = series.finished[place] - series.finished[start]
        assert rate * (now - series.times[start]) == pytest.approx(in_it)


@given(cell=cells())
def test_a_window_longer_than_the_run_is_the_run(cell: LoadCell) -> None:
    series = load_series(cell, window_seconds=1000)
    assert series.hit_rate == series.hit_rate_so_far
    if len(series.times) > 1:
        assert series.qps[-1] == pytest.approx(series.finished[-1] / series.times[-1])


@given(
    values=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=20),
    gaps=st.lists(st.floats(0.1, 5), min_size=20, max_size=20),
    place=st.integers(0, 18),
)
def test_looking_more_often_changes_no_mean(
    values: list[float | None], gaps: list[float], place: int
) -> None:
    times = [sum(gaps[:number]) for number in range(len(values))]
    figures = HeldFigures.of(times, tuple(values))
    known = [value for value in values if value is not None]
    if figures is None:
        assert not known
        return
    assert min(known) - 1e-9 <= figures.mean <= figures.highest + 1e-9
    assert figures.p95 in known
    assert figures.highest == max(known)
    if place < len(values) - 1:
        middle = (times[place] + times[place + 1]) / 2
        more = HeldFigures.of(
            [*times[: place + 1], middle, *times[place + 1 :]],
            (*values[: place + 1], values[place], *values[place + 1 :]),
        )
        assert more is not None
        assert more.mean == pytest.approx(figures.mean)
        assert more.highest == figures.highest


def test_nothing_known_has_no_figures() -> None:
    assert HeldFigures.of([0.0, 1.0], (None, None)) is None


def test_what_is_rare_is_not_in_the_95_percent() -> None:
    figures = HeldFigures.of([0.0, 96.0, 100.0], (1.0, 9.0, 9.0))
    assert figures == HeldFigures(mean=pytest.approx(1.32), p95=1.0, highest=9.0)


def counts(queries: float, hits: float, preemptions: float = 0.0) -> ServerState:
    return ServerState(cache_queries=queries, cache_hits=hits, preemptions=preemptions)


def test_a_counter_that_begins_again_goes_on() -> None:
    run = over_time(counts(1000, 900, 7), counts(1100, 950, 8), counts(50, 0, 1), counts(150, 100, 1))
    (row,) = load_rows([run])
    assert row.hit_rate == pytest.approx(150 / 250)
    assert row.preemptions == 2
    assert load_series(run, window_seconds=2).hit_rate == (None, 0.5, 0.0, 1.0)


def test_what_is_counted_in_a_gap_is_not_lost() -> None:
    run = over_time(counts(0, 0), None, counts(100, 80), None)
    series = load_series(run, window_seconds=2)
    assert series.hit_rate == (None, None, 0.8, None)
    (row,) = load_rows([run])
    assert row.hit_rate == pytest.approx(0.8)
    assert row.gaps == 2


def test_the_last_window_ends_with_the_last_sample() -> None:
    samples = [
        Sample(time=time, finished=finished, servers={})
        for time, finished in ((0.0, 0), (2.0, 1), (4.0, 1), (4.5, 3))
    ]
    assert load_series(cell(samples), window_seconds=2).qps == (None, 0.5, 0.0, pytest.approx(2 / 2.5))


def priced(*prices: float) -> LoadCell:
    return over_time(*(ServerState(price=price, pressure=2 * price) for price in prices))


def test_lambda_is_told_by_time_and_turns() -> None:
    (row,) = load_rows([priced(0, 2, 4, 4, 1, 3, 3)])
    (price,) = row.prices
    assert (price.tier, price.highest, price.p95) == ("large", 4, 4)
    assert price.mean == pytest.approx((0 + 2 + 4 + 4 + 1 + 3) / 6)
    assert price.above_half == pytest.approx(3 / 6)
    assert price.switches_per_minute == pytest.approx(2 / 0.2)  # down once, up once, in 12 s


@given(prices=st.lists(st.floats(0, 4), min_size=2, max_size=20))
def test_lambda_that_only_rises_does_not_turn(prices: list[float]) -> None:
    (rising,) = load_rows([priced(*sorted(prices))])[0].prices
    assert rising.switches_per_minute == 0
    (any_way,) = load_rows([priced(*prices)])[0].prices
    assert any_way.switches_per_minute * (len(prices) - 1) * 2 / 60 <= len(prices) - 2 + 1e-9
    assert 0 <= any_way.above_half <= 1


def test_the_server_under_more_pressure_comes_first() -> None:
    samples = [
        Sample(
            time=float(time),
            finished=0,
            servers={"large": ServerState(price=1.0), "small": ServerState(price=2.0, running=3)},
        )
        for time in range(3)
    ]
    (row,) = load_rows([cell(samples)])
    assert [price.tier for price in row.prices] == ["small", "large"]


def test_questions_that_failed_are_not_answered_fast() -> None:
    run = over_time(counts(0, 0), counts(0, 0))
    run.questions[0]["result"] = None
    (row,) = load_rows([run])
    assert (row.questions, row.failures) == (4, 1)
    assert row.qps == pytest.approx(3 / 2)
    assert row.end_to_end_s == pytest.approx(3)
    for record in run.questions:
        record["result"] = None
    (row,) = load_rows([run])
    assert (row.qps, row.end_to_end_s, row.end_to_end_p95_s) == (0, None, None)


def test_charts_are_the_same_bytes_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from agentinfer_lg.evals.agent.load.plots import draw_load

    runs = [priced(0, 2, 1), over_time(counts(0, 0), None, counts(100, 80))]
    named = [
        LoadCell(configuration=name, n=n, seconds=4.0, questions=run.questions, samples=run.samples)
        for n in (8, 4)
        for name, run in zip(("+compress", "all"), runs, strict=True)
    ]
    series = [load_series(each, window_seconds=2) for each in named]
    first = draw_load(series, tmp_path / "a", form="svg")
    again = draw_load(series, tmp_path / "b", form="svg")
    assert [file.name for file in first] == ["load-4.svg", "load-8.svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert draw_load(series, tmp_path, form="png")[0].read_bytes().startswith(b"\x89PNG")


def test_charts_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentinfer_lg.evals.agent.load.plots import draw_load

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match="Plots need matplotlib"):
        draw_load([load_series(priced(1, 2), window_seconds=2)], tmp_path / "charts", form="svg")
    assert not (tmp_path / "charts").exists()
