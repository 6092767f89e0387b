"""One way in which servers behave, and the proof that the command line copes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.run_cli import CommandLine, Outcome
from support.stand_in.agent import ANSWER, FACT, MARKERS, QUESTION, SENTINEL
from support.stand_in.server import MODEL, Server, StandIn

__all__ = ("LEVELS", "Profile", "prove", "rows")

LEVELS = (0, 150, 600, 4000)
"""Tokens of thought before each answer."""
_SECONDS = 60.0
_DOCUMENTS = {
    "orlen.txt": f"Orlen Reservoir\n\n{FACT} It was filled in 1931.\n",
    "harbour.txt": "Velm Harbour\n\nVelm Harbour has two piers and a chandlery.\n",
}
_FILLING = " ".join(
    f"In its report number {number} the board of the Orlen reservoir counted the visitors, the boats and the fish of the year."
    for number in range(1, 60)
)
_LONG_DOCUMENTS = {
    **{name: f"{text}\n{_FILLING}\n" for name, text in _DOCUMENTS.items()},
    **{f"report-{number}.txt": f"Report {number} on the reservoir\n\n{_FILLING}\n" for number in range(4)},
}

_baseline: dict[int, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A server, who reported it, and what must come of it."""

    name: str
    """Of the behaviour."""
    report: str
    """Address of a public report."""
    server: Server = field(default_factory=Server)
    base: str = "/v1"
    """What follows host and port in the base URL that a user sets."""
    model: str = MODEL
    """As the user names it; empty: chosen from the list."""
    environment: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[int] = (0,)
    """Lengths of thought to be tried."""
    slow: bool = False
    """Whether the server makes everybody wait."""
    long: bool = False
    """Whether the documents are long."""
    says: str = ""
    """Where no answer is possible: words of the sentence that names the cause."""
    doctor: str = ""
    """A word of what the doctor says."""
    extra_calls: int = 0
    """Requests that the server turns away whatever they are."""
    keeps_thoughts: bool = False
    """Whether the server wants its thoughts back, so that a saved run must have them."""

    def __post_init__(self) -> None:
        if not self.report.startswith("https://"):
            msg = f"the profile {self.name!r} has no address of a report"
            raise ValueError(msg)


def rows(profiles: Sequence[Profile]) -> list[object]:
    """Return one parameter for each profile and length of thought; all but the first length are slow, as are slow servers."""
    return [
        pytest.param(profile, level, id=f"{profile.name}-{level}" if len(profile.levels) > 1 else profile.name,
                     marks=[pytest.mark.slow] if index or profile.slow else [])
        for profile in profiles
        for index, level in enumerate(profile.levels)
    ]  # fmt: skip


def prove(profile: Profile, thinking: int, folder: Path) -> None:
    """Run `research` and `doctor` against the server of a profile."""
    server = _thinking(profile.server, thinking)
    with StandIn(server) as stand_in:
        _research(profile, stand_in, folder, thinking)
    with StandIn(server) as stand_in:
        _doctor(profile, stand_in, folder)


def _thinking(server: Server, tokens: int) -> Server:
    return replace(server, agent=replace(server.agent, thinking=tokens))


def _command_line(profile: Profile, stand_in: StandIn, folder: Path) -> CommandLine:
    url = stand_in.root + profile.base
    environment = {
        "AGENTINFER_SMALL__MODEL": profile.model,
        "AGENTINFER_LARGE__MODEL": profile.model,
        **{name: value.replace("{root}", stand_in.root) for name, value in profile.environment.items()},
    }
    command = CommandLine(folder=folder, small=url, large=url, environment=environment)
    command.docs.mkdir(exist_ok=True)
    for name, text in (_LONG_DOCUMENTS if profile.long else _DOCUMENTS).items():
        (command.docs / name).write_text(text)
    return command


def _research(profile: Profile, stand_in: StandIn, folder: Path, thinking: int) -> None:
    command = _command_line(profile, stand_in, folder)
    outcome = command.research(QUESTION, timeout=_SECONDS)
    shown = f"{outcome.everything[:3000]}\n{len(stand_in.chats)} calls"
    assert not outcome.has_traceback(), shown
    _has_no_thought(profile, command, outcome)
    _has_no_key(profile, outcome)
    if profile.says:
        assert outcome.code != 0, shown
        assert profile.says in " ".join(outcome.stderr.split()), shown
    else:
        assert outcome.code == 0, shown
        result = outcome.result
        assert ANSWER in result["answer"], shown
        assert ANSWER in result["report"], shown
        assert "[1]" in result["report"], shown
        assert any(source["cited"] and source["uri"] == "orlen.txt" for source in result["sources"]), shown
    calls = len(stand_in.chats)
    assert calls <= 2 * _calls_of_a_good_server(thinking) + profile.extra_calls, shown


def _has_no_key(profile: Profile, outcome: Outcome) -> None:
    keys = [value.strip() for name, value in profile.environment.items() if name.endswith("API_KEY")]
    assert not [key for key in keys if key in outcome.stdout + outcome.stderr], outcome.everything[:3000]


def _has_no_thought(profile: Profile, command: CommandLine, outcome: Outcome) -> None:
    for text in (outcome.stdout, outcome.stderr):
        assert not [mark for mark in (SENTINEL, *MARKERS) if mark in text], text[:3000]
    if profile.keeps_thoughts:
        return
    for path in command.home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        found = [mark for mark in (SENTINEL, *MARKERS) if mark.encode() in content]
        assert not found, f"{path.name} has {found}"


def _doctor(profile: Profile, stand_in: StandIn, folder: Path) -> None:
    outcome = _command_line(profile, stand_in, folder).run("doctor", timeout=_SECONDS)
    assert not outcome.has_traceback(), outcome.everything
    assert SENTINEL not in outcome.everything
    _has_no_key(profile, outcome)
    assert (outcome.code != 0) == bool(profile.says), outcome.everything
    assert (profile.doctor or profile.says) in outcome.everything


def _calls_of_a_good_server(thinking: int) -> int:
    """Return how many calls a run takes at a server that does all as it should, measured once."""
    if thinking not in _baseline:
        good = Profile(name="well behaved", report="https://platform.openai.com/docs/api-reference/chat")
        with tempfile.TemporaryDirectory() as folder, StandIn(_thinking(good.server, thinking)) as stand_in:
            outcome = _command_line(good, stand_in, Path(folder)).research(QUESTION, timeout=_SECONDS)
            assert outcome.code == 0, outcome.everything
            _baseline[thinking] = len(stand_in.chats)
    return _baseline[thinking]
