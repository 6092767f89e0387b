"""What a run looks like while it goes on: a table of agents on a terminal, plain lines elsewhere.

`Board` is the pure part: it turns events into rows and log lines. Whatever models and documents say passes
through `plain`, so that no escape sequence of theirs reaches the terminal.
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_DOING = {
    "plan": "planning",
    "think": "thinking",
    "progress": "checking progress",
    "qa": "reading",
    "filter": "choosing results",
    "distill": "compressing",
    "write": "writing",
    "prewarm": "warming up",
}
_JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji need, and that move nothing."""
_ARGUMENT_CHARS = 60
_LOG_CHARS = 300
_LOG_LINES = 10


def plain(text: object, *, limit: int = 0, lines: bool = False) -> str:
    """Make foreign text fit for a terminal: no control, bidirectional or invisible characters.

    Args:
        text: What to show.
        limit: Most characters; 0 for all.
        lines: Keep line breaks and tabs; otherwise all white space becomes one space.
    """
    kept = []
    for char in str(text):
        if char in "\n\t" or char.isspace():
            kept.append(char if lines and char in "\n\t" else " ")
        elif char in _JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co"):
            kept.append(char)
    clean = "".join(kept)
    if not lines:
        clean = " ".join(clean.split())
    return clean[: limit - 1] + "…" if limit and len(clean) > limit else clean


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log."""

    agent: str
    text: str
    style: str = ""
    """A rich style."""


@dataclass(slots=True)
class AgentRow:
    """What one agent does and what it has used so far."""

    agent: str
    tier: str = ""
    turn: int = 0
    doing: str = "waiting"
    since: float = 0.0
    """When it began, by the clock of the board."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    """Part of the output tokens that is thoughts."""
    escalations: int = 0
    tools: list[tuple[str, str]] = field(default_factory=list)
    """Tool calls that run now: name and label."""

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompt tokens that the server had cached, from 0 to 1; None before the first call."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


class Board:
    """State of the view.

    Args:
        clock: Seconds, rising.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self.rows: dict[str, AgentRow] = {}
        self.log: deque[LogLine] = deque(maxlen=_LOG_LINES)
        self.status = ""

    def elapsed(self, since: float | None = None) -> float:
        """Seconds since `since`, or since the start."""
        return self._clock() - (self.started if since is None else since)

    def apply(self, event: Mapping[str, Any]) -> list[LogLine]:
        """Take in one event and return the lines it adds to the log; unknown kinds are ignored."""
        kind, agent = event.get("event"), plain(event.get("agent", ""), limit=40)
        if not isinstance(kind, str) or not agent:
            return []
        if kind == "wait":
            return [self.note(plain(event.get("text", "")), "dim")]
        handler = _HANDLERS.get(kind)
        if handler is None:
            return []
        self.status = ""
        row = self.rows.setdefault(agent, AgentRow(agent, since=self._clock()))
        if isinstance(event.get("turn"), int):
            row.turn = event["turn"]
        lines = handler(self, row, event)
        self.log.extend(lines)
        return lines

    def note(self, text: str, style: str = "") -> LogLine:
        """Add a line that is no event."""
        line = LogLine("", plain(text, limit=_LOG_CHARS), style)
        self.log.append(line)
        return line

    def _do(self, row: AgentRow, doing: str) -> None:
        row.doing, row.since = doing, self._clock()

    def _model_start(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        role = str(event.get("role", ""))
        row.tier = plain(event.get("tier", row.tier), limit=8)
        self._do(row, _DOING.get(role, plain(role, limit=20) or "thinking"))
        return []

    def _model_end(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        row.tier = plain(event.get("tier", row.tier), limit=8)
        row.prompt_tokens += _count(event, "prompt_tokens")
        row.cached_tokens += _count(event, "cached_tokens")
        row.output_tokens += _count(event, "output_tokens")
        row.thought_tokens += _count(event, "thought_tokens")
        self._do(row, "waiting")
        text = plain(event.get("text", ""), limit=_LOG_CHARS)
        if event.get("role") not in ("think", "plan") or not text:
            return []
        return [LogLine(row.agent, f"{row.tier} thinks: {text}", "dim")]

    def _tool_start(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        tool = plain(event.get("tool", "tool"), limit=20)
        label = f"{tool} {_argument(event.get('arguments'))}".rstrip()
        row.tools.append((tool, label))
        self._do(row, label)
        return [LogLine(row.agent, label, "cyan")]

    def _tool_end(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        tool = plain(event.get("tool", "tool"), limit=20)
        ended = next((entry for entry in row.tools if entry[0] == tool), None)
        if ended:
            row.tools.remove(ended)
        self._do(row, row.tools[-1][1] if row.tools else "waiting")
        seconds = event.get("seconds")
        took = f"{seconds if isinstance(seconds, int | float) else 0.0:.1f} s"
        if event.get("ok", True):
            return [LogLine(row.agent, f"{tool}: {_count(event, 'results')} results in {took}", "cyan")]
        reason = plain(event.get("text", ""), limit=_LOG_CHARS)
        return [LogLine(row.agent, f"{tool} failed after {took}: {reason}", "yellow")]

    def _filter(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        kept, removed = _count(event, "results"), _count(event, "removed")
        reason = plain(event.get("text", ""), limit=_LOG_CHARS)
        text = f"keeps {kept} of {kept + removed} results"
        return [LogLine(row.agent, f"{text} by their words: {reason}" if reason else text, "cyan")]

    def _recall(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        about = plain(event.get("text", ""), limit=_LOG_CHARS)
        return [
            LogLine(row.agent, f"shows [{plain(event.get('ticket', '?'), limit=8)}] again: {about}", "cyan")
        ]

    def _distill_start(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        tokens = _count(event, "tokens_before")
        return [LogLine(row.agent, f"distills {tokens} tokens of results in the background", "dim")]

    def _distill_end(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        reason = plain(event.get("text", ""), limit=_LOG_CHARS)
        if event.get("ok", True):
            return []
        return [LogLine(row.agent, f"notes made without a model: {reason}", "yellow")]

    def _swap(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        if not event.get("ok", True):
            return []
        before, after = _count(event, "tokens_before"), _count(event, "tokens_after")
        return [LogLine(row.agent, f"context {before} -> {after} tokens", "green")]

    def _progress(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        reason = plain(event.get("stall") or event.get("text") or "", limit=_LOG_CHARS)
        verdict = plain(event.get("verdict", "?"), limit=12)
        return [LogLine(row.agent, f"progress {verdict}" + (f": {reason}" if reason else ""), "blue")]

    def _escalation(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        row.escalations += 1
        return [
            LogLine(row.agent, f"escalates to large: {plain(event.get('cause', ''), limit=120)}", "magenta")
        ]

    def _deescalation(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        return [LogLine(row.agent, f"back to small: {plain(event.get('cause', ''), limit=120)}", "magenta")]

    def _plan(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        self._do(row, "done")
        parts = event.get("plan")
        questions = parts if isinstance(parts, list) else []
        return [
            LogLine(row.agent, f"plan {n}: {plain(q, limit=_LOG_CHARS)}") for n, q in enumerate(questions, 1)
        ]

    def _finding(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        self._do(row, "done")
        text = plain(event.get("text", ""), limit=_LOG_CHARS) or "nothing found"
        return [LogLine(row.agent, f"finding: {text}", "green")]

    def _report(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        self._do(row, "done")
        return [LogLine(row.agent, "report written", "green")]

    def _note(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        return [LogLine(row.agent, plain(event.get("text", ""), limit=_LOG_CHARS), "dim")]

    def _trouble(self, row: AgentRow, event: Mapping[str, Any]) -> list[LogLine]:
        return [LogLine(row.agent, plain(event.get("text", ""), limit=_LOG_CHARS), "yellow")]


_HANDLERS: Mapping[str, Callable[[Board, AgentRow, Mapping[str, Any]], list[LogLine]]] = {
    "plan": Board._plan,
    "model_start": Board._model_start,
    "model_end": Board._model_end,
    "tool_start": Board._tool_start,
    "tool_end": Board._tool_end,
    "filter": Board._filter,
    "recall": Board._recall,
    "distill_start": Board._distill_start,
    "distill_end": Board._distill_end,
    "swap": Board._swap,
    "progress": Board._progress,
    "escalation": Board._escalation,
    "deescalation": Board._deescalation,
    "finding": Board._finding,
    "budget": Board._trouble,
    "warning": Board._trouble,
    "note": Board._note,
    "report": Board._report,
}


def _count(event: Mapping[str, Any], key: str) -> int:
    value = event.get(key)
    return value if isinstance(value, int) else 0


def _argument(arguments: object) -> str:
    """The argument that tells most: a single value as it is, several as JSON."""
    if not isinstance(arguments, dict) or not arguments:
        return ""
    value = next(iter(arguments.values())) if len(arguments) == 1 else arguments
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return plain(text, limit=_ARGUMENT_CHARS)


class View(Protocol):
    """Shows a run; used as a context manager around it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def status(self, text: str) -> None:
        """Say what is going on before the first event."""
        ...

    def note(self, text: str, style: str = "") -> None:
        """Say something that stays."""
        ...

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        ...

    def pause(self) -> None:
        """Leave the terminal to a prompt."""
        ...

    def go_on(self) -> None:
        """Take the terminal back."""
        ...


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def status(self, text: str) -> None:
        """Show nothing."""

    def note(self, text: str, style: str = "") -> None:
        """Show nothing."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Show nothing."""

    def pause(self) -> None:
        """Do nothing."""

    def go_on(self) -> None:
        """Do nothing."""


class LineView(SilentView):
    """One line per thing that happens: for pipes, logs and CI."""

    def __init__(self, console: Console, *, board: Board | None = None) -> None:
        self._console = console
        self.board = board or Board()

    def status(self, text: str) -> None:
        """Print what is going on."""
        self._print(LogLine("", plain(text)))

    def note(self, text: str, style: str = "") -> None:
        """Print a line."""
        self._print(self.board.note(text, style))

    def event(self, event: Mapping[str, Any]) -> None:
        """Print the lines of one event."""
        for line in self.board.apply(event):
            self._print(line)

    def _print(self, line: LogLine) -> None:
        agent = f"{line.agent}: " if line.agent else ""
        text = f"[{self.board.elapsed():7.1f}s] {agent}{line.text}"
        self._console.print(text, style=line.style or None, markup=False, highlight=False, soft_wrap=True)


class RichView(SilentView):
    """A table of agents with ticking clocks, over a short log."""

    def __init__(self, console: Console, *, board: Board | None = None) -> None:
        from rich.live import Live

        self._console = console
        self.board = board or Board()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def status(self, text: str) -> None:
        """Show what is going on."""
        self.board.status = plain(text)

    def note(self, text: str, style: str = "") -> None:
        """Add a line to the log."""
        self.board.note(text, style)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in one event; the display refreshes by itself."""
        self.board.apply(event)

    def pause(self) -> None:
        """Stop refreshing."""
        self._live.stop()

    def go_on(self) -> None:
        """Refresh again."""
        self._live.start()

    def render(self) -> RenderableType:
        """The display as it is now."""
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        parts: list[RenderableType] = []
        if self.board.rows:
            parts.append(self._table())
        parts.extend(self._log_text(line) for line in list(self.board.log))
        elapsed = f"{self.board.elapsed():.0f} s"
        parts.append(Spinner("dots", Text(f"{self.board.status or 'researching'} · {elapsed}", no_wrap=True)))
        return Group(*parts)

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        table.add_column("agent", no_wrap=True)
        table.add_column("tier", no_wrap=True)
        table.add_column("turn", justify="right", no_wrap=True)
        table.add_column("now", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("s", justify="right", no_wrap=True)
        table.add_column("in", justify="right", no_wrap=True)
        table.add_column("cached", justify="right", no_wrap=True)
        table.add_column("out", justify="right", no_wrap=True)
        thinks = any(row.thought_tokens for row in self.board.rows.values())
        if thinks:
            table.add_column("thinking", justify="right", no_wrap=True)
        table.add_column("esc", justify="right", no_wrap=True)
        for row in list(self.board.rows.values()):
            busy = row.doing not in ("done", "waiting")
            thinking = [f"{row.thought_tokens / max(1, row.output_tokens):.0%}"] if thinks else []
            table.add_row(
                Text(row.agent),
                Text(row.tier, style="magenta" if row.tier == "large" else "green"),
                str(row.turn),
                Text(row.doing, style="" if busy else "dim"),
                f"{self.board.elapsed(row.since):.0f}" if row.doing != "done" else "",
                f"{row.prompt_tokens:,}",
                "-" if row.hit_rate is None else f"{row.hit_rate:.0%}",
                f"{row.output_tokens:,}",
                *thinking,
                str(row.escalations),
            )
        return table

    def _log_text(self, line: LogLine) -> RenderableType:
        from rich.text import Text

        agent = f"{line.agent}: " if line.agent else ""
        return Text(agent + line.text, style=line.style, no_wrap=True, overflow="ellipsis")


def make_view(*, quiet: bool, console: Console) -> View:
    """The view that fits: none, a live table on a terminal, plain lines elsewhere."""
    if quiet:
        return SilentView()
    return RichView(console) if console.is_terminal and not console.is_dumb_terminal else LineView(console)
