"""The live view: what events become, and that foreign text cannot steer the terminal."""

import io
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentinfer_lg.cli.live import Board, LineView, RichView, SilentView, make_view, plain
from agentinfer_lg.cli.summary import print_report, summary_lines, summary_table, to_json
from agentinfer_lg.result import build_result


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _event(kind: str, agent: str = "seeker-1", **values: Any) -> dict[str, Any]:
    return {"event": kind, "agent": agent, **values}


def _console(*, width: int = 100, terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=terminal, legacy_windows=False), out


@given(st.text())
def test_plain_text_holds_no_control_characters(text: str) -> None:
    for shown in (plain(text), plain(text, lines=True)):
        for char in shown:
            assert char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")
            assert char not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b"
    assert "\n" not in plain(text)


@given(st.text(), st.integers(2, 50))
def test_plain_text_keeps_to_its_limit(text: str, limit: int) -> None:
    assert len(plain(text, limit=limit)) <= limit


def test_plain_text_keeps_what_people_write() -> None:
    assert plain("北京大学, naïve, 👩‍👩‍👧, می‌خواهم") == "北京大学, naïve, 👩‍👩‍👧, می‌خواهم"
    assert plain("a\x1b[2Jb\x9bc\rd") == "a[2Jbc d"


@given(
    st.dictionaries(st.text(max_size=10), st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())))
)
def test_events_of_any_shape_are_survived(event: dict[str, Any]) -> None:
    for kind in ("model_end", "tool_start", "tool_end", "plan", "progress", "escalation", "unheard-of"):
        board = Board()
        board.apply({"agent": "seeker-1", **event, "event": kind})
        RichView(_console()[0], board=board).render()


def test_a_round_of_an_agent() -> None:
    clock = Clock()
    board = Board(clock=clock)
    board.apply(_event("model_start", turn=2, tier="small", role="think"))
    row = board.rows["seeker-1"]
    assert (row.doing, row.tier, row.turn) == ("thinking", "small", 2)
    clock.now = 7.0
    assert board.elapsed(row.since) == 7.0
    used = {"prompt_tokens": 200, "cached_tokens": 150, "output_tokens": 9}
    board.apply(_event("model_end", turn=2, tier="small", role="think", text="Search.", **used))
    assert row.hit_rate == 0.75
    board.apply(_event("tool_start", tool="crawl", arguments={"url": "http://a.example/1"}))
    board.apply(_event("tool_start", tool="document_qa", arguments={"uri": "a", "question": "b"}))
    board.apply(_event("tool_end", tool="document_qa", ok=True, results=1, seconds=1.0))
    assert row.doing == "crawl http://a.example/1"
    failed = board.apply(_event("tool_end", tool="crawl", ok=False, seconds=2.0, text="too large"))
    assert "failed" in failed[0].text
    assert "too large" in failed[0].text
    assert row.doing == "waiting"
    board.apply(_event("escalation", turn=3, cause="progress FALSE"))
    assert row.escalations == 1
    board.apply(_event("finding", text="42"))
    assert row.doing == "done"


def test_agents_are_told_apart() -> None:
    board = Board()
    board.apply(_event("model_end", "seeker-1", tier="small", prompt_tokens=10))
    board.apply(_event("model_end", "seeker-2", tier="large", prompt_tokens=5))
    assert {name: row.prompt_tokens for name, row in board.rows.items()} == {"seeker-1": 10, "seeker-2": 5}


def test_the_table_shows_tier_turn_tool_and_cache() -> None:
    console, out = _console()
    view = RichView(console)
    view.event(_event("model_end", turn=3, tier="large", role="think", prompt_tokens=1000, cached_tokens=900))
    view.event(_event("tool_start", turn=3, tool="web_search", arguments={"queries": ["lamps"]}))
    console.print(view.render())
    text = out.getvalue()
    for part in ("seeker-1", "large", "3", "web_search", "lamps", "1,000", "90%"):
        assert part in text


@pytest.mark.parametrize("width", [20, 40, 200])
def test_the_table_fits_any_width(width: int) -> None:
    console, out = _console(width=width)
    view = RichView(console)
    view.status("indexing the documents in " + "x" * 300)
    for kind in ("tool_start", "finding", "warning"):
        view.event(_event(kind, tool="t", arguments={"a": "y" * 300}, text="z" * 400))
    console.print(view.render())
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_lines_for_pipes_carry_no_escape_sequences() -> None:
    console, out = _console()
    view = LineView(console)
    with view:
        view.status("contacting the model servers")
        view.event(_event("finding", text="see [bold]this[/bold] \x1b]0;title\x07"))
        view.event(_event("budget", text="The turns ran out."))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]this[/bold]" in text
    assert "contacting the model servers" in text
    assert "The turns ran out." in text


def test_which_view() -> None:
    assert isinstance(make_view(quiet=False, console=_console()[0]), LineView)
    assert isinstance(make_view(quiet=False, console=_console(terminal=True)[0]), RichView)
    assert type(make_view(quiet=True, console=_console(terminal=True)[0])) is SilentView


def test_the_report_cannot_steer_the_terminal() -> None:
    report = "# Title\n\nText \x1b[31mred\x1b]8;;http://evil.example\x07 [1]\n\n- [1] A — https://a.example"
    console, out = _console()
    print_report(report, console)
    assert "\x1b" not in out.getvalue()
    assert "- [1] A — https://a.example" in out.getvalue()
    console, out = _console(terminal=True)
    print_report(report, console)
    assert "\x1b]" not in out.getvalue()
    assert "\x1b[31mred" not in out.getvalue()
    assert "https://a.example" in out.getvalue()


def test_json_escapes_what_could_steer_the_terminal_and_stays_json() -> None:
    import json

    value = {"report": "北京 \x1b[2J \x9b \udc80 \n"}
    text = to_json(value)
    assert "北京" in text
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in text)
    assert json.loads(text) == value


def test_the_summary_says_what_happened() -> None:
    call = {
        "agent": "seeker-1",
        "turn": 0,
        "role": "think",
        "tier": "small",
        "model": "m",
        "prompt_tokens": 1000,
        "cached_tokens": 250,
        "output_tokens": 7,
        "seconds": 1.0,
        "reprefill_tokens": 33,
    }
    result = build_result({"calls": [call], "ran_out": ["The turns ran out."]}, thread="t", seconds=2.0)
    rows = dict(summary_lines(result))
    assert rows["turns"] == "1: small 1, large 0"
    assert "1,000 tokens in, 250 cached (25%)" in rows["small tier"]
    assert rows["large tier"] == "not used"
    assert "33" in rows["escalations"]
    assert rows["ran out"] == "The turns ran out."
    console, out = _console()
    console.print(summary_table(result))
    assert "what happened" in out.getvalue()
