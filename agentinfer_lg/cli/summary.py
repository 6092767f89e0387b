"""The end of a run on the terminal: the report, and a table of what happened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentinfer_lg.cli.live import plain
from agentinfer_lg.collab.effective_policy import ONE_MODEL_NOTE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from agentinfer_lg.result import Result

_TERMINAL_CONTROLS = re.compile(r"[\x7f-\x9f]")


def to_json(value: Mapping[str, Any] | Result) -> str:
    """One line of JSON; characters that could steer a terminal are escaped, others are left readable."""
    text = json.dumps(value, ensure_ascii=False)
    text = _TERMINAL_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def print_report(report: str, console: Console) -> None:
    """Print the report: rendered on a terminal, as markdown elsewhere."""
    text = plain(report, lines=True).rstrip()
    if not console.is_terminal:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    from rich.markdown import Markdown

    console.print(Markdown(text, hyperlinks=False))


def summary_table(result: Result) -> RenderableType:
    """What happened, as two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="what happened", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in summary_lines(result):
        table.add_row(name, Text(text))
    return table


def summary_lines(result: Result) -> list[tuple[str, str]]:
    """The rows of the table: what, and how much."""
    tiers = [tier for turns in result["tier_per_turn"].values() for tier in turns]
    checks = result["progress_checks"]
    lines = [
        ("turns", f"{len(tiers)}: small {tiers.count('small')}, large {tiers.count('large')}"),
        (
            "progress checks",
            f"{len(checks['checks'])}: TRUE {checks['true']}, FALSE {checks['false']}, "
            f"unreadable {checks['unreadable']}, skipped {checks['skipped']}, stalls {checks['stalls']}",
        ),
        (
            "escalations",
            f"{len(result['escalations'])}, tokens prefilled again: {result['reprefill_tokens']:,}",
        ),
    ]
    if result["one_model"]:
        lines = [lines[0], ("models", ONE_MODEL_NOTE)]
    lines += [(f"{tier} tier", _usage(result, tier)) for tier in result["usage"]]
    seconds = result["seconds"]
    phases = ("plan", "think", "progress", "act", "observe", "write")
    spent = ", ".join(f"{phase} {seconds[phase]:.1f}" for phase in phases)  # type: ignore[literal-required]
    lines.append(("seconds", f"{seconds['total']:.1f} in all; {spent} (agents run in parallel)"))
    cited = sum(source["cited"] for source in result["sources"])
    dropped = result["dropped_citations"]
    lines.append(
        ("sources", f"{len(result['sources'])} retrieved, {cited} cited, {dropped} citations dropped")
    )
    lines += [("ran out", plain(item)) for item in result["ran_out"]]
    return lines


def _usage(result: Result, tier: Any) -> str:
    usage = result["usage"][tier]
    if not usage["calls"]:
        return "not used"
    prompt, cached = usage["prompt_tokens"], usage["cached_tokens"]
    share = f" ({cached / prompt:.0%})" if prompt else ""
    told = f"{usage['calls']} calls, {prompt:,} tokens in, {cached:,} cached{share}, {usage['output_tokens']:,} out"
    if thoughts := usage["thought_tokens"]:
        told += f", of which {thoughts:,} thinking ({thoughts / max(1, usage['output_tokens']):.0%})"
    return told + (f"; {retried:,} in answers that were cut" if (retried := usage["retry_tokens"]) else "")
