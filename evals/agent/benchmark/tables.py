"""Tables of `agentinfer eval`: summaries, grades, comparisons, profiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.benchmark.compare import Comparison
    from agentinfer_lg.evals.agent.benchmark.figures import Breakdown
    from agentinfer_lg.evals.agent.benchmark.profile import Profile
    from agentinfer_lg.evals.common.metrics_page import ServerFigures
    from agentinfer_lg.evals.grading.grades import Grades

Record = Mapping[str, Any]  # Any: JSON

_PHASES = ("think", "act", "observe", "progress", "wait", "distill")


def write_json(value: Record, file: Path | None) -> None:
    """Write figures, if there is a file for them."""
    if file is not None:
        file.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def summary_table(summary: Record) -> list[str]:
    """Return the table of a run, from the object of `summarise`."""
    if not summary["questions"]:
        return ["no question was finished"]
    tokens = summary["tokens"]
    head = ("policy", "questions", "EM", "F1", "s per question", "turns", "large turns", "escalations")
    return aligned(
        [
            (*head, "re-prefill tokens", "small tokens (cached)", "large tokens (cached)"),
            (
                str(summary["policy"]),
                str(summary["questions"]),
                f"{summary['exact_match']:.2f}",
                f"{summary['f1']:.3f}",
                f"{summary['seconds_per_question']:.0f}",
                f"{summary['turns_per_question']:.1f}",
                f"{summary['large_turns_share']:.0%}",
                str(summary["escalations"]),
                f"{summary['reprefill_tokens']:,}",
                _tokens(tokens["small"]),
                _tokens(tokens["large"]),
            ),
        ]
    )


def grades_table(grades: Sequence[Grades]) -> list[str]:
    """Return accuracies by set of right answers and judge; the exact match knows no confidence, so has no error of it."""
    head = ("answers", "judge", "judged", "right", "accuracy (95%)", "calibration error", "unreadable")
    return aligned([head, *(_grades_row(each) for each in grades)])


def comparison_table(found: Comparison) -> list[str]:
    """Return two runs side by side."""
    rows: list[tuple[str, tuple[float, float], str, str]] = [
        ("exact match", found.exact_match, ".2f", f"{found.exact_match_difference:+.2f}"),
        ("F1", found.f1, ".3f", f"{found.f1_difference:+.3f}"),
        ("turns", found.turns, ".1f", f"x {found.turns_ratio:.2f}"),
        ("escalations", found.escalations, ".1f", f"{found.escalations_difference:+.2f}"),
        ("tokens", found.tokens, ",.0f", f"x {found.tokens_ratio:.2f}"),
        ("tokens not cached", found.computed, ",.0f", f"x {found.computed_ratio:.2f}"),
    ]
    if found.ineffective is not None:
        against = f"x {found.ineffective_ratio:.2f}" if found.ineffective_ratio else "-"
        rows.append(("ineffective tokens", found.ineffective, ",.0f", against))
    rows.append(("seconds", found.seconds, ".0f", f"x {found.seconds_ratio:.2f}"))
    return [
        f"{found.questions} questions",
        *aligned(
            [
                ("per question", "A", "B", "A against B (95%)"),
                *(
                    (name, f"{left:{spec}}", f"{right:{spec}}", against)
                    for name, (left, right), spec, against in rows
                ),
            ]
        ),
    ]


def show_profile(folder: Path) -> dict[str, Any]:
    """Print the profile of a run and write `profile.json` and `profile.svg` into its folder; returns it.

    Raises:
        UserInputError: The folder is no run, or one without traces.
    """
    from agentinfer_lg.errors import UserInputError
    from agentinfer_lg.evals.agent.benchmark.plots import draw_profile
    from agentinfer_lg.evals.agent.benchmark.profile import profile_run

    profile = profile_run(folder)
    typer.echo("\n".join(_profile_tables(profile)))
    figures = profile.to_json()
    write_json(figures, folder / "profile.json")
    try:
        typer.echo(f"drawn: {draw_profile(profile, folder / 'profile.svg')}", err=True)
    except UserInputError as error:  # without the chart there are still the tables
        typer.echo(str(error), err=True)
    return figures


def _grades_row(grades: Grades) -> tuple[str, ...]:
    figures = grades.figures
    accuracy, error = figures["accuracy"], figures["calibration_error"]
    interval = (
        "-"
        if accuracy is None
        else f"{accuracy:.1%} ({figures['accuracy_low']:.1%} to {figures['accuracy_high']:.1%})"
    )
    return (
        grades.answers,
        grades.judge,
        f"{figures['judged']}/{figures['questions']}",
        str(figures["correct"]),
        interval,
        "-" if error is None or grades.judge == "exact" else f"{error:.2f}",
        str(figures["unreadable"]),
    )


def _profile_tables(profile: Profile) -> list[str]:
    tables = [
        _phase_rows(profile.breakdown),
        _turn_rows(profile),
        _token_rows(profile.breakdown),
        _component_rows(profile.breakdown),
        *([_server_rows(profile.servers)] if profile.servers else []),
    ]
    return [
        line for number, rows in enumerate(tables) for line in (*([""] if number else []), *aligned(rows))
    ]


def _phase_rows(breakdown: Breakdown) -> list[Sequence[str]]:
    """Where the time went; agents that work at the same time count each for itself."""
    questions, whole = max(1, breakdown.questions), breakdown.phases.foreground
    names = ("plan", *_PHASES[:-1], "write", "distill")
    rows: list[Sequence[str]] = [("phase", "s per question", "share")]
    for name in names:
        seconds = getattr(breakdown.phases, name)
        share = "meanwhile" if name == "distill" else _share(seconds, whole)
        rows.append((name, f"{seconds / questions:.2f}", share))
    rows.append(("all agents", f"{whole / questions:.2f}", _share(whole, whole)))
    rows.append(("wall time", f"{breakdown.seconds / questions:.2f}", ""))
    return rows


def _turn_rows(profile: Profile) -> list[Sequence[str]]:
    from agentinfer_lg.evals.agent.benchmark.profile import turn_groups

    groups = turn_groups(profile.breakdown.turns)
    rows: list[Sequence[str]] = [("turn", "turns", "useful", "s", *_PHASES)]
    rows += [
        (
            group.name,
            str(group.turns),
            str(group.useful),
            f"{group.seconds.foreground:.2f}",
            *(f"{getattr(group.seconds, name):.2f}" for name in _PHASES),
        )
        for group in groups
    ]
    turns = profile.breakdown.turns
    useful = sum(turn.useful for turn in turns)
    return [*rows, ("all", str(len(turns)), str(useful), *[""] * (len(_PHASES) + 1))]


def _token_rows(breakdown: Breakdown) -> list[Sequence[str]]:
    lost, computed = breakdown.ineffective, breakdown.computed_tokens
    counts = {
        "computed": computed,
        "useful": breakdown.useful_tokens,
        "ineffective": lost.total,
        "- rounds without evidence": lost.rounds,
        "- results read for nothing": lost.results,
        "- computed again": lost.recomputed,
    }
    rows = [(name, f"{count:,}", _share(count, computed)) for name, count in counts.items()]
    hits = (
        "cached",
        f"{breakdown.cached_tokens:,}",
        f"{_share(breakdown.cached_tokens, breakdown.prompt_tokens)} of prompts",
    )
    return [("tokens", "number", "share"), *rows, hits]


def _component_rows(breakdown: Breakdown) -> list[Sequence[str]]:
    head = ("component", "calls", "s", "prompt tokens", "cached", "hit rate", "output tokens", "ineffective")
    return [
        head,
        *(
            (
                name,
                f"{each['calls']:.0f}",
                f"{each['seconds']:.1f}",
                f"{each['prompt_tokens']:,.0f}",
                f"{each['cached_tokens']:,.0f}",
                _share(each["cached_tokens"], each["prompt_tokens"]),
                f"{each['output_tokens']:,.0f}",
                f"{each['ineffective_tokens']:,.0f}",
            )
            for name, each in breakdown.components.items()
        ),
    ]


def _server_rows(servers: Mapping[str, ServerFigures]) -> list[Sequence[str]]:
    head = ("server", "requests", "queue s", "prefill s", "decode s", "preemptions", "hit rate", "OTE", "SHR")
    return [
        head,
        *(
            (
                name,
                f"{each.requests:.0f}",
                f"{each.queue_seconds:.1f}",
                f"{each.prefill_seconds:.1f}",
                f"{each.decode_seconds:.1f}",
                f"{each.preemptions:.0f}",
                f"{each.hit_rate:.0%}",
                "-" if each.ote is None else f"{each.ote:.2f}",
                "-" if each.shr is None else f"{each.shr:.0%}",
            )
            for name, each in servers.items()
        ),
    ]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _tokens(usage: Mapping[str, int]) -> str:
    return f"{usage['prompt_tokens'] + usage['output_tokens']:,} ({usage['cached_tokens']:,})"
