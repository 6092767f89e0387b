"""Where the time and the tokens of a run went: per phase, per turn, per component; useful and ineffective.

Times are those of one agent after the other: seekers that run at the same time count each for itself. Tokens are those that
an engine really computed: prompt tokens it had not cached, and output tokens. A cached token costs nothing, so it is neither
useful nor ineffective.

Ineffective are, without counting any token twice:

- `rounds`: all computed tokens of rounds that brought no evidence and no accepted answer;
- `recomputed`: in the other rounds, prompt tokens that this agent had sent before, and that were computed again because a cache
  had lost them or the other model had never seen them;
- `results`: of what is left in these rounds, search results that were read for nothing: what the round before had shown to the
  agent and is no evidence, and, of what the search filter computed, the share of the results that it pruned.

Everything else is useful: also plan, report, and distilling in the background, for which no round can be blamed. Evidence is a
document that the benchmark names as needed for the answer; where it names none, one that a finding rests on. An agent that is
stopped reads once more what it has seen; that reading is useful if its finding rests on evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

Record = Mapping[str, Any]  # Any: JSON of `agentinfer research --json`

Phase = Literal["plan", "think", "progress", "act", "observe", "distill", "write", "wait"]
"""Names of the fields of `Phases`."""

_FOREGROUND = {"think": "think", "progress": "progress", "qa": "observe", "filter": "observe"}
"""Roles of calls that an agent waits for, and their phase."""
_BACKGROUND = ("distill", "prewarm")
_WHOLE_BLOCKS = 128
"""Tokens: a cache keeps whole blocks only, so the end of a prompt is always computed again. Less than this is no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds by phase."""

    plan: float = 0.0
    think: float = 0.0
    progress: float = 0.0
    act: float = 0.0
    """Tools, without the model calls that some of them make."""
    observe: float = 0.0
    """Model calls that read: filter, document questions, the answer."""
    distill: float = 0.0
    """In the background, beside the other phases."""
    write: float = 0.0
    wait: float = 0.0
    """Neither a model nor a tool worked for the agent: its own bookkeeping, and the prefill before a compaction."""

    @property
    def foreground(self) -> float:
        """All but the background."""
        return float(sum(getattr(self, each.name) for each in fields(self))) - self.distill

    def __add__(self, other: Self) -> Self:
        """Add phase by phase."""
        return type(self)(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTimes:
    """One turn of one agent."""

    agent: str
    turn: int
    tier: str
    useful: bool
    phases: Phases
    """`distill` is what was started in this turn; it goes on beside the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ineffective:
    """Computed tokens that did not help, by cause."""

    rounds: int = 0
    results: int = 0
    recomputed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.rounds + self.results + self.recomputed

    def __add__(self, other: Self) -> Self:
        """Add cause by cause."""
        return type(self)(
            rounds=self.rounds + other.rounds,
            results=self.results + other.results,
            recomputed=self.recomputed + other.recomputed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """One question, or several added up."""

    questions: int = 1
    seconds: float = 0.0
    """Wall time."""
    phases: Phases = field(default_factory=Phases)
    turns: tuple[TurnTimes, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ineffective: Ineffective = field(default_factory=Ineffective)
    components: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By role and tier, for instance `think large`: calls, seconds, prompt_tokens, cached_tokens, output_tokens, and
    ineffective_tokens."""

    @property
    def tokens(self) -> int:
        """Prompt and output tokens of all calls."""
        return self.prompt_tokens + self.output_tokens

    @property
    def computed_tokens(self) -> int:
        """The same without what was cached."""
        return self.tokens - self.cached_tokens

    @property
    def useful_tokens(self) -> int:
        """Computed tokens that are not ineffective."""
        return self.computed_tokens - self.ineffective.total

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object, with the sums."""
        return {
            **asdict(self),
            "tokens": self.tokens,
            "computed_tokens": self.computed_tokens,
            "useful_tokens": self.useful_tokens,
            "ineffective_tokens": self.ineffective.total,
            "cache_hit_rate": self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0,
        }


def break_down(result: Record, *, evidence: Sequence[str] = ()) -> Breakdown:
    """Break down one run.

    Args:
        result: The JSON object of `agentinfer research --json`, with its `trace`.
        evidence: Titles of the documents that the answer needs, if they are known.
    """
    trace = result["trace"]
    calls: list[Record] = sorted(trace["calls"], key=_started)
    keys = _evidence_keys(result, evidence)
    useful = _useful_rounds(trace["rounds"], keys) | _useful_endings(result, keys)
    turns = _all_turns(calls, trace["tools"], useful)
    phases = replace(
        sum((turn.phases for turn in turns), Phases()),
        plan=_seconds(calls, "plan"),
        write=_seconds(calls, "write"),
        distill=_seconds(calls, *_BACKGROUND),
    )
    lost = _ineffective(calls, result, keys, useful)
    return Breakdown(
        seconds=result["seconds"]["total"],
        phases=phases,
        turns=tuple(turns),
        prompt_tokens=sum(call["prompt_tokens"] for call in calls),
        cached_tokens=sum(call["cached_tokens"] for call in calls),
        output_tokens=sum(call["output_tokens"] for call in calls),
        ineffective=sum(lost, Ineffective()),
        components=_components(calls, lost),
    )


def combined(parts: Iterable[Breakdown]) -> Breakdown:
    """Add breakdowns up; turns are kept one by one."""
    listed = list(parts)
    components: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for part in listed:
        for name, figures in part.components.items():
            for key, value in figures.items():
                components[name][key] += value
    return Breakdown(
        questions=sum(part.questions for part in listed),
        seconds=sum(part.seconds for part in listed),
        phases=sum((part.phases for part in listed), Phases()),
        turns=tuple(turn for part in listed for turn in part.turns),
        prompt_tokens=sum(part.prompt_tokens for part in listed),
        cached_tokens=sum(part.cached_tokens for part in listed),
        output_tokens=sum(part.output_tokens for part in listed),
        ineffective=sum((part.ineffective for part in listed), Ineffective()),
        components={name: dict(figures) for name, figures in sorted(components.items())},
    )


def _evidence_keys(result: Record, titles: Sequence[str]) -> set[str]:
    if titles:
        return {source["key"] for source in result["sources"] if source["title"] in titles}
    return {key for finding in result["findings"] for key in finding["sources"]}


def _useful_rounds(rounds: Iterable[Record], keys: set[str]) -> set[tuple[str, int]]:
    """Rounds in which an agent first saw something of a document of `keys`, or gave its answer."""
    return {
        (each["agent"], each["turn"])
        for each in rounds
        if each["accepted"] or (each["new_evidence"] and not keys.isdisjoint(each["shown"]))
    }


def _useful_endings(result: Record, keys: set[str]) -> set[tuple[str, int]]:
    """Turns in which a stopped agent only read what it had seen, and came to a finding that rests on `keys`."""
    trace = result["trace"]
    rounds = {(each["agent"], each["turn"]) for each in trace["rounds"]}
    found = {each["agent"] for each in result["findings"] if not keys.isdisjoint(each["sources"])}
    return {
        (call["agent"], call["turn"])
        for call in trace["calls"]
        if call["role"] == "qa" and call["agent"] in found
    } - rounds


def _started(record: Record) -> float:
    """Return when a call began; those of earlier versions, which did not say, came before all others."""
    return float(record.get("started", 0.0))


def _all_turns(
    calls: Iterable[Record], tools: Iterable[Record], useful: set[tuple[str, int]]
) -> list[TurnTimes]:
    """Return the turns of all agents; what does not say when it began is left out."""
    timed = [call for call in calls if "started" in call]
    timed_tools = [tool for tool in tools if "started" in tool]
    agents = sorted({call["agent"] for call in timed if call["role"] == "think"})
    return [turn for agent in agents for turn in _turns(agent, timed, timed_tools, useful)]


def _turns(
    agent: str, calls: Sequence[Record], tools: Sequence[Record], useful: set[tuple[str, int]]
) -> list[TurnTimes]:
    """Cut the time of an agent at the beginnings of its Think steps."""
    mine = [call for call in calls if call["agent"] == agent]
    own = [call for call in mine if call["role"] in _FOREGROUND]
    own_tools = [tool for tool in tools if tool["agent"] == agent]
    starts: dict[int, float] = {}
    tiers: dict[int, str] = {}
    for call in own:
        if call["role"] == "think":
            starts[call["turn"]] = min(call["started"], starts.get(call["turn"], call["started"]))
            tiers[call["turn"]] = call["tier"]
    end = max(each["started"] + each["seconds"] for each in [*own, *own_tools])
    order = sorted(starts, key=starts.__getitem__)
    ends = [*(starts[turn] for turn in order[1:]), end]
    return [
        TurnTimes(
            agent=agent,
            turn=turn,
            tier=tiers[turn],
            useful=(agent, turn) in useful,
            phases=replace(
                _phases(own, own_tools, starts[turn], until),
                distill=_seconds((call for call in mine if call["turn"] == turn), *_BACKGROUND),
            ),
        )
        for turn, until in zip(order, ends, strict=True)
    ]


def _phases(calls: Sequence[Record], tools: Sequence[Record], start: float, end: float) -> Phases:
    """Share out the time from `start` to `end`; where calls overlap, the time goes to the first of the phases."""
    taken: list[tuple[float, float]] = []
    spent: dict[str, float] = {}
    for phase in ("think", "progress", "observe"):
        mine = [_interval(call) for call in calls if _FOREGROUND[call["role"]] == phase]
        spent[phase], taken = _claim(mine, taken, start, end)
    spent["act"], taken = _claim([_interval(tool) for tool in tools], taken, start, end)
    return Phases(**spent, wait=max(0.0, end - start - _length(taken)))


def _interval(record: Record) -> tuple[float, float]:
    return record["started"], record["started"] + record["seconds"]


def _claim(
    mine: Iterable[tuple[float, float]], taken: Sequence[tuple[float, float]], start: float, end: float
) -> tuple[float, list[tuple[float, float]]]:
    """Return how much of `mine` was not taken yet, and everything that is taken now; within `start` and `end`."""
    clipped = [(max(begin, start), min(until, end)) for begin, until in mine]
    union = _union([*taken, *(each for each in clipped if each[0] < each[1])])
    return _length(union) - _length(taken), union


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, until in sorted(intervals):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], until))
        else:
            joined.append((begin, until))
    return joined


def _length(intervals: Iterable[tuple[float, float]]) -> float:
    return sum(until - begin for begin, until in intervals)


def _seconds(calls: Iterable[Record], *roles: str) -> float:
    return float(sum(call["seconds"] for call in calls if call["role"] in roles))


def _ineffective(
    calls: Sequence[Record], result: Record, keys: set[str], useful: set[tuple[str, int]]
) -> list[Ineffective]:
    """Return what each call computed for nothing."""
    pruned = {
        (each["agent"], each["turn"]): each["pruned"] / max(1, each["results"])
        for each in result.get("filters", ())
    }
    unread = _useless_results(result["trace"]["rounds"], keys)
    again = _recomputed(calls, result.get("swaps", ()))
    found = []
    for call, lost in zip(calls, again, strict=True):
        place = call["agent"], call["turn"]
        computed = _computed(call)
        # What a round shows is computed by the next Think step, once.
        shown = unread.pop((call["agent"], call["turn"] - 1), 0) if call["role"] == "think" else 0
        if call["role"] not in _FOREGROUND:
            found.append(Ineffective())
        elif place not in useful:
            found.append(Ineffective(rounds=computed))
        elif call["role"] == "filter":
            found.append(Ineffective(results=int(computed * pruned.get(place, 0.0))))
        else:
            results = min(shown, call["prompt_tokens"] - call["cached_tokens"] - lost)
            found.append(Ineffective(results=max(0, results), recomputed=lost))
    return found


def _useless_results(rounds: Iterable[Record], keys: set[str]) -> dict[tuple[str, int], int]:
    """Return by round the tokens that it showed of documents that are no evidence."""
    found: dict[tuple[str, int], int] = defaultdict(int)
    for each in rounds:
        found[each["agent"], each["turn"]] += sum(
            tokens for key, tokens in each["shown"].items() if key not in keys
        )
    return found


def _computed(call: Record) -> int:
    return int(call["prompt_tokens"] - call["cached_tokens"] + call["output_tokens"])


def _recomputed(calls: Sequence[Record], swaps: Iterable[Record]) -> list[int]:
    """Return by call the prompt tokens that its agent had sent before and that were not cached."""
    swapped = {(each["agent"], each["turn"]) for each in swaps}
    known: dict[str, int] = {}
    found = []
    for call in calls:
        agent, lost = call["agent"], 0
        if call["role"] in ("think", "progress"):
            if (agent, call["turn"]) in swapped:  # with notes in it, its context is another one
                swapped.remove((agent, call["turn"]))
                known[agent] = 0
            lost = min(call["prompt_tokens"], known.get(agent, 0)) - call["cached_tokens"]
        if call["role"] == "think":  # a check is not part of the context that goes on
            known[agent] = call["prompt_tokens"] + call["output_tokens"]
        found.append(lost if lost >= _WHOLE_BLOCKS else 0)
    return found


def _components(calls: Iterable[Record], lost: Iterable[Ineffective]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for call, ineffective in zip(calls, lost, strict=True):
        figures = found[f"{call['role']} {call['tier']}"]
        figures["calls"] += 1
        for key in ("seconds", "prompt_tokens", "cached_tokens", "output_tokens"):
            figures[key] += call[key]
        figures["ineffective_tokens"] += ineffective.total
    return {name: dict(figures) for name, figures in sorted(found.items())}
