"""Do exact details survive distillation? Questions about old results, without compression, with it, and with recall.

The results of a session are distilled before anybody knows what will be asked. Then each probe is asked of the same
reader over the transcript as the seeker would see it: whole, with notes in place of the old results, or with notes and
the tool `recall`, which the model uses if it decides to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentinfer_lg.compression.distill import distill, notes_without_model
from agentinfer_lg.compression.distillate import Distillate, with_details
from agentinfer_lg.context import Context
from agentinfer_lg.evals.common.run_store import keep_settings, write_json
from agentinfer_lg.evals.compression.granularity.reader import Asked, RecallBy, ask, read
from agentinfer_lg.evals.compression.granularity.session import DetailSession, Probe, contains, is_right
from agentinfer_lg.llm.calling import Caller
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources

Policy = Literal[
    "full",
    "notes",
    "recall",
    "recall-guided",
    "recall-auto",
    "recall-without-details",
    "extract",
    "extract-recall",
    "reading",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    source: Literal["nothing", "model", "code"]
    """Who made the notes."""
    recall: RecallBy | None = None
    details: bool = True


POLICIES: dict[Policy, _Kind] = {
    "full": _Kind(source="nothing"),
    "notes": _Kind(source="model"),
    "recall": _Kind(source="model", recall="model"),
    "recall-guided": _Kind(source="model", recall="guided"),
    "recall-auto": _Kind(source="model", recall="code"),
    "recall-without-details": _Kind(source="model", recall="model", details=False),
    "extract": _Kind(source="code"),
    "extract-recall": _Kind(source="code", recall="code"),
    "reading": _Kind(source="nothing"),
}
"""`recall`, `recall-guided` and `recall-auto` differ in who decides to recall, see `RecallBy`. `recall-without-details`: the
notes do not list what could be recalled. `extract`, `extract-recall` (by code): sentences of the results stand in for
notes, as they do where the model fails. `reading`: no transcript at all, but the originals that match the question best,
from which the seeker reads the answer when a step in the JSON form says `answer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One probe under one policy."""

    session: str
    set: str
    language: str
    probe: int
    kind: str
    policy: str
    question: str
    expected: str
    answer: str
    right: bool
    in_notes: bool
    """Whether the notes, without the strings listed for recall, contain the detail."""
    shown: bool
    """Whether the notes contain it as this policy shows them; the whole transcript always does."""
    recalls: int
    recalled_right: bool
    """Whether some recall brought the detail back."""
    prompt_tokens: int
    """Of the call that answers."""
    step_tokens: int
    """Prompt tokens of the steps before it."""
    output_tokens: int
    removed: int
    """Lines of the session's notes that its results did not bear out."""
    failure: str
    """Why the session's notes were made without a model."""
    number: int
    steps: tuple[str, ...] = ()
    recalled: tuple[tuple[int, str], ...] = ()

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells rows apart."""
        return self.session, self.probe, self.policy


@dataclass(frozen=True, slots=True)
class _Notes:
    notes: Distillate
    removed: int
    failure: str


class GranularityBenchmark:
    """Runs probes under policies; what is finished is kept in a folder, and not asked again.

    Args:
        sessions: What to run.
        policies: Which policies.
        resources: Models: the small tier distills, the large one reads.
        context: Knobs; those of compression and recall matter.
        folder: Where to keep results.
        parallel: Sessions at once.

    Raises:
        ConfigurationError: The folder holds results with other settings.
    """

    def __init__(
        self,
        sessions: Sequence[DetailSession],
        policies: Sequence[Policy],
        resources: Resources,
        *,
        context: Context,
        folder: Path,
        parallel: int = 2,
    ) -> None:
        self._sessions, self._policies = sessions, policies
        self._resources, self._context, self._folder = resources, context, folder
        self._parallel = parallel
        self._check_same()
        self._done = {row.key: row for row in _read_rows(folder / "rows.jsonl")}

    @property
    def total(self) -> int:
        """Number of rows of the whole run."""
        return len(self._policies) * sum(len(session.probes) for session in self._sessions)

    @property
    def rows(self) -> list[Row]:
        """The finished rows of this run, in order; kept answers are scored by the rules of today."""
        return [
            replace(row, right=is_right(row.answer, probe))
            for session in self._sessions
            for index, probe in enumerate(session.probes)
            for policy in self._policies
            if (row := self._done.get((session.id, index, policy))) is not None
        ]

    async def distill(self, *, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Make the notes of all sessions that have none yet."""
        gate = asyncio.Semaphore(self._parallel)

        async def one(session: DetailSession) -> None:
            async with gate:
                await self._distilled(session)
                on_step(f"{session.id} distilled")

        await _all(one(session) for session in self._sessions)

    async def run(self, *, on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
        """Ask what was not asked yet and return all rows.

        Raises:
            EndpointError: A model does not answer.
        """
        gate = asyncio.Semaphore(self._parallel)

        async def one(session: DetailSession) -> None:
            async with gate:
                for policy in self._policies:
                    # The first one brings the transcript into the server's cache; the others find it there.
                    on_row(await self._row(session, 0, policy))
                    rest = range(1, len(session.probes))
                    for row in asyncio.as_completed([self._row(session, probe, policy) for probe in rest]):
                        on_row(await row)

        await _all(one(session) for session in self._sessions)
        return self.rows

    async def _row(self, session: DetailSession, index: int, policy: Policy) -> Row:
        known = self._done.get((session.id, index, policy))
        if known is not None:
            return known
        kind, probe = POLICIES[policy], session.probes[index]
        made = await self._notes(session, kind)
        caller = self._caller(session, policy)
        if policy == "reading":
            asked = await read(caller, session, probe)
        else:
            notes = made.notes if made else None
            asked = await ask(caller, session, probe, notes=notes, recall=kind.recall)
        row = _row(session, index, policy, probe, made, asked)
        self._done[row.key] = row
        with (self._folder / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        return row

    async def _notes(self, session: DetailSession, kind: _Kind) -> _Notes | None:
        if kind.source == "nothing":
            return None
        made = _extracted(session, self._context) if kind.source == "code" else await self._distilled(session)
        queries, tokens = _queries(session), self._context.notes_tokens
        notes = made.notes if kind.details else replace(made.notes, details=())
        return replace(made, notes=notes.after(Distillate(), queries=queries, tokens=tokens))

    async def _distilled(self, session: DetailSession) -> _Notes:
        file = self._folder / "notes" / f"{session.id}.json"
        if not file.exists():
            distilled = await distill(
                self._caller(session, "distill"),
                PROMPTS[session.language],
                session.originals,
                _queries(session),
                tier="small",
                window=self._resources.models.small.max_model_len,
                seconds=self._context.distill_seconds,
                detail_tokens=self._context.notes_tokens // 4,
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, distilled.to_json(), indent=1)
        data = json.loads(file.read_text(encoding="utf-8"))
        return _Notes(Distillate.from_json(data["notes"]), data["removed"], data["failure"])

    def _caller(self, session: DetailSession, purpose: str) -> Caller:
        return Caller(
            resources=self._resources,
            context=self._context,
            run_id="granularity",
            agent=f"{session.id} {purpose}",
            turn=0,
        )

    def _check_same(self) -> None:
        """Keep results of different models and knobs apart."""
        settings = self._resources.settings
        wanted: dict[str, Any] = {  # Any: JSON
            "distiller": settings.small.model,
            "reader": settings.large.model,
            "context": self._context.model_dump(mode="json", exclude_defaults=True),
        }
        keep_settings(self._folder, wanted)


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first failure stops the others, and nothing goes on in the background."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _queries(session: DetailSession) -> list[str]:
    return [session.task, *session.queries]


def _extracted(session: DetailSession, context: Context) -> _Notes:
    """Notes as `distill` makes them where no model answers."""
    originals = session.originals
    notes = notes_without_model(originals, _queries(session))
    return _Notes(with_details(notes, originals, tokens=context.notes_tokens // 4), 0, "")


def _row(
    session: DetailSession, index: int, policy: Policy, probe: Probe, made: _Notes | None, asked: Asked
) -> Row:
    prompts, recall = PROMPTS[session.language], POLICIES[policy].recall is not None
    spellings = (probe.answer, *probe.also)

    def tells(*, details: bool) -> bool:
        text = made.notes.text(prompts, recall=details) if made else ""
        return any(contains(text, spelling) for spelling in spellings)

    return Row(
        session=session.id,
        set=session.set,
        language=session.language,
        probe=index,
        kind=probe.kind,
        policy=policy,
        question=probe.question,
        expected=probe.answer,
        answer=asked.answer,
        right=is_right(asked.answer, probe),
        in_notes=tells(details=False),
        shown=made is None or tells(details=recall),
        recalls=len(asked.recalls),
        recalled_right=any(each.held for each in asked.recalls),
        prompt_tokens=asked.calls[-1]["prompt_tokens"],
        step_tokens=sum(call["prompt_tokens"] for call in asked.calls[:-1]),
        output_tokens=sum(call["output_tokens"] for call in asked.calls),
        removed=made.removed if made else 0,
        failure=made.failure if made else "",
        number=probe.number,
        steps=tuple(asked.thoughts),
        recalled=tuple((each.number, each.about) for each in asked.recalls),
    )


def _read_rows(file: Path) -> list[Row]:
    """Read what was finished; a line that was cut off by an interrupt is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, TypeError):
            data = json.loads(line)
            data["steps"] = tuple(data["steps"])
            data["recalled"] = tuple((number, about) for number, about in data["recalled"])
            rows.append(Row(**data))
    return rows
