"""How well does the verifier see that there is no progress? Scored on Who&When, without a model.

Who&When (arXiv 2505.00212) holds failed runs of multi-agent systems; people labelled in each the step of the
decisive mistake. The verifier (`agentinfer_lg.collab.verifier`) watches each run, round by round, and may flag
the step that closes a round. A flag before the labelled step is a false alarm: nothing had gone wrong yet. A
decisive mistake is often no lack of progress (a wrong number read from the right page), so the verifier cannot
find them all. The yardstick is a coin that flags as many rounds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from agentinfer_lg.collab.verifier import RoundEvidence, VerifierState, normalise_action, observe
from agentinfer_lg.errors import UserInputError

SUBSETS = ("Algorithm-Generated", "Hand-Crafted")
WINDOW = 3
"""Steps after the labelled one within which a flag counts as prompt."""
GRID = (1, 2, 3, 4)

Part = Literal["all", "tune", "report"]
"""All runs, or one of two halves by the hash of the question's id: limits are chosen on `tune` alone."""


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """One failed run."""

    question_id: str
    steps: tuple[tuple[str, str], ...]
    """Who spoke (agent, or role where no name is given), and what."""
    mistake: int
    """Index of the decisive mistake among `steps`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Share of runs with at least one flag, by where it may stand relative to the labelled step m."""

    by_label: float
    """At a step <= m."""
    at_label: float
    """At m itself."""
    soon_after: float
    """From m to m + 3."""
    from_label: float
    """From m to the end."""
    anywhere: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorScore:
    """Result over a set of runs."""

    runs: int
    steps: int
    rounds: int
    """Steps at which a flag was possible."""
    flags: int
    hits: Hits
    chance: Hits
    """What a coin that flags each round with probability `flags / rounds` is expected to reach."""
    good_steps: int
    """Steps before the labelled one, over all runs."""
    good_rounds: int
    """Rounds that closed at those steps."""
    false_alarms: int
    """Flags at those steps."""
    false_alarms_per_run: float
    false_alarms_per_good_step: float
    early_rate: float
    """Flags per good round: how often a check is wrong before anything has gone wrong."""
    late_rate: float
    """Flags per round from the labelled step on; a detector that knows something has more here."""


def run(folder: Path, *, repeat_limit: int = 2, stall_limit: int = 2) -> dict[str, object]:
    """Score the verifier on both subsets of Who&When.

    Args:
        folder: Holds `Algorithm-Generated` and `Hand-Crafted` with one JSON file per run.
        repeat_limit: As in `Context.repeat_limit`.
        stall_limit: As in `Context.stall_limit`.

    Returns:
        A JSON object: the limits, and per subset the score with these limits (`given`), the limits that do best
        on one half of the runs and their score on the other half (`tuned`), and, where the runs record it, the
        score of the system's own judgement of its progress (`self_report`).

    Raises:
        UserInputError: The folder does not hold the data, or a file is malformed.
    """
    result: dict[str, object] = {"repeat_limit": repeat_limit, "stall_limit": stall_limit, "window": WINDOW}
    for subset in SUBSETS:
        runs = read_runs(folder / subset)
        own = [_self_reported(each) for each in runs]
        result[subset] = {
            "given": asdict(_verifier_score(runs, repeat_limit, stall_limit)),
            "tuned": _tune(runs),
            "self_report": asdict(_score(runs, own)) if any(own) else None,
        }
    return result


def score(folder: Path, *, repeat_limit: int, stall_limit: int, part: Part = "all") -> DetectorScore:
    """Score the verifier on the runs of one folder.

    Raises:
        UserInputError: The folder does not hold runs, or a file is malformed.
    """
    return _verifier_score(_of_part(read_runs(folder), part), repeat_limit, stall_limit)


def read_runs(folder: Path) -> list[LabelledRun]:
    """Read the runs of one folder, in the order of their file names.

    Raises:
        UserInputError: The folder does not hold runs, or a file is malformed.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        msg = f"{folder} holds no runs. Give the folder of Who&When that contains {' and '.join(SUBSETS)}."
        raise UserInputError(msg)
    return [_read(file) for file in files]


def judge(labelled: LabelledRun, *, repeat_limit: int, stall_limit: int) -> dict[int, bool]:
    """For each step that closes a round, whether the verifier objects; it knows of nothing that comes later."""
    judged: dict[int, bool] = {}
    state = VerifierState()
    for step, closed in _rounds(labelled.steps):
        state, objection = observe(state, closed, repeat_limit=repeat_limit, stall_limit=stall_limit)
        judged[step] = bool(objection)
    return judged


def _read(file: Path) -> LabelledRun:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        steps = tuple(
            (str(step.get("name") or step["role"]), str(step["content"])) for step in data["history"]
        )
        labelled = LabelledRun(str(data["question_ID"]), steps, int(data["mistake_step"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file} is not a labelled run of Who&When ({type(error).__name__}: {error})."
        raise UserInputError(msg) from error
    if not 0 <= labelled.mistake < len(steps):
        msg = f"{file} labels step {labelled.mistake} of a run of {len(steps)} steps."
        raise UserInputError(msg)
    return labelled


_CODE = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
_PAGE = re.compile(r"\[[^\]\n]{0,300}\]\(([^)\s]{1,500})\)")
_VIEW = re.compile(r"positioned (?:at the )?([^.\n]{1,40}) of the page")
_NOTHING = ("There is no code from the last", "Nothing to summarize")


def _rounds(steps: Iterable[tuple[str, str]]) -> Iterator[tuple[int, RoundEvidence]]:
    """Cut a run into closed rounds, each with the step at which it closes.

    What is said before a tool or a worker answers (a plan, a ledger, a delegation, a program) is the thought and
    the actions of the round; the answer closes it and is its evidence. A message that calls nothing is its own
    answer.
    """
    actions: list[str] = []
    thoughts: list[str] = []
    for index, (actor, text) in enumerate(steps):
        programs = _CODE.findall(text) if not _is_terminal(actor) else []
        if actor == "human" or "termination" in actor:
            continue
        if actor.startswith("Orchestrator"):
            thoughts.append(_ledger_text(text) if "thought" in actor else text)
        elif programs:
            thoughts.append(_CODE.sub(" ", text))
            actions += [normalise_action("run", {"program": program}) for program in programs]
        else:
            did, evidence, errors = _answer(actor, text)
            yield index, RoundEvidence((*actions, *did), evidence, "\n".join(thoughts), errors)
            actions, thoughts = [], []


def _answer(actor: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Actions, evidence and number of errors in the message that closes a round."""
    if text.startswith(_NOTHING):
        return (), (), 1
    if _is_terminal(actor):
        output = text.partition("Code output:")[2]
        return ((), (output,), 0) if "exitcode: 0" in text[:40] else ((), (), 1)
    if not actor.endswith("Surfer"):
        return (), (text,), 0
    did, _, shown = text.partition("\n")
    page, view = _PAGE.search(shown), _VIEW.search(shown)
    where = {"page": page and page.group(1), "view": view and view.group(1)}
    return (normalise_action(actor, {"did": did, **where}),), (shown or text,), 0


def _is_terminal(actor: str) -> bool:
    return actor.replace("_", "").lower() == "computerterminal"


def _ledger(text: str) -> dict[str, Any]:
    """The ledger that an orchestrator wrote, empty if the text is none."""
    try:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _ledger_text(text: str) -> str:
    """What a ledger says, without the keys that all ledgers share; other texts as they are, handovers empty."""
    if text.startswith("Next speaker"):
        return ""
    ledger = _ledger(text)
    said = [str(entry.get("reason", "")) for entry in ledger.values() if isinstance(entry, dict)]
    return " ".join(said) if ledger else text


def _self_reported(labelled: LabelledRun) -> dict[int, bool]:
    """For each ledger of an orchestrator, whether it says itself that it loops or makes no progress."""

    def admits(ledger: dict[str, Any]) -> bool:
        loop, progress = (ledger.get(key) for key in ("is_in_loop", "is_progress_being_made"))
        looping = isinstance(loop, dict) and loop.get("answer") is True
        return looping or (isinstance(progress, dict) and progress.get("answer") is False)

    steps = enumerate(labelled.steps)
    return {step: admits(_ledger(text)) for step, (_, text) in steps if "is_in_loop" in text}


def _tune(runs: Sequence[LabelledRun]) -> dict[str, object]:
    """Limits whose rates from and before the label differ most on one half, and their score on the other."""
    tune, report = _of_part(runs, "tune"), _of_part(runs, "report")

    def gain(limits: tuple[int, int]) -> float:
        tried = _verifier_score(tune, *limits)
        return tried.late_rate - tried.early_rate

    repeat, stall = max(((first, second) for first in GRID for second in GRID), key=gain)
    return {
        "repeat_limit": repeat,
        "stall_limit": stall,
        "score": asdict(_verifier_score(report, repeat, stall)),
    }


def _of_part(runs: Sequence[LabelledRun], part: Part) -> list[LabelledRun]:
    def is_tune(each: LabelledRun) -> bool:
        return hashlib.sha256(each.question_id.encode()).digest()[0] % 2 == 0

    return [each for each in runs if part == "all" or is_tune(each) == (part == "tune")]


def _windows(labelled: LabelledRun) -> dict[str, range]:
    mistake, end = labelled.mistake, len(labelled.steps)
    return {
        "by_label": range(mistake + 1),
        "at_label": range(mistake, mistake + 1),
        "soon_after": range(mistake, min(mistake + WINDOW + 1, end)),
        "from_label": range(mistake, end),
        "anywhere": range(end),
    }


def _verifier_score(runs: Sequence[LabelledRun], repeat_limit: int, stall_limit: int) -> DetectorScore:
    return _score(runs, [judge(each, repeat_limit=repeat_limit, stall_limit=stall_limit) for each in runs])


def _score(runs: Sequence[LabelledRun], judged: Sequence[Mapping[int, bool]]) -> DetectorScore:
    """Count; `judged` tells for each run which steps could be flagged and which were."""
    pairs = list(zip(runs, judged, strict=True))
    rounds, flags = sum(map(len, judged)), sum(sum(own.values()) for own in judged)
    good_steps = sum(each.mistake for each in runs)
    good_rounds = sum(step < each.mistake for each, own in pairs for step in own)
    early = sum(flag and step < each.mistake for each, own in pairs for step, flag in own.items())
    return DetectorScore(
        runs=len(runs),
        steps=sum(len(each.steps) for each in runs),
        rounds=rounds,
        flags=flags,
        hits=_shares(pairs, None),
        chance=_shares(pairs, flags / max(rounds, 1)),
        good_steps=good_steps,
        good_rounds=good_rounds,
        false_alarms=early,
        false_alarms_per_run=early / max(len(runs), 1),
        false_alarms_per_good_step=early / max(good_steps, 1),
        early_rate=early / max(good_rounds, 1),
        late_rate=(flags - early) / max(rounds - good_rounds, 1),
    )


def _shares(pairs: Sequence[tuple[LabelledRun, Mapping[int, bool]]], coin: float | None) -> Hits:
    """Share of runs flagged in each window, or what a coin of chance `coin` per round is expected to reach."""
    sums: dict[str, float] = {}
    for labelled, own in pairs:
        for name, window in _windows(labelled).items():
            inside = [own[step] for step in window if step in own]
            hit = float(any(inside)) if coin is None else 1 - (1 - coin) ** len(inside)
            sums[name] = sums.get(name, 0.0) + hit
    return Hits(**{field.name: sums.get(field.name, 0.0) / max(len(pairs), 1) for field in fields(Hits)})
