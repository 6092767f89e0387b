"""What a run keeps beside its results: questions without their text, settings, what servers counted; and its chart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import FakeOpenAI

from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.agent.benchmark.figures import Breakdown, Phases, TurnTimes
from agentinfer_lg.evals.agent.benchmark.folder import Asked, asked, keep_asked, read_asked
from agentinfer_lg.evals.agent.benchmark.plots import draw_profile
from agentinfer_lg.evals.agent.benchmark.profile import Profile, profile_run
from agentinfer_lg.evals.agent.benchmark.segments import Segment, read_segments
from agentinfer_lg.evals.agent.benchmark.settings import keep_benchmark_settings, server_urls
from agentinfer_lg.evals.datasets.question import Question

HERON = Question(
    id="heron",
    question="When was Heron Point lit?",
    answer="1871",
    also_right=("1871年",),
    topic="light",
    hops=2,
    evidence=("Heron Point", "鸬鹚礁"),
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SMALL__BASE_URL", "SMALL__MODEL", "LARGE__BASE_URL", "LARGE__MODEL"):
        monkeypatch.delenv(f"AGENTINFER_{name}", raising=False)


# Questions


def test_questions_are_kept_without_their_text(tmp_path: Path) -> None:
    keep_asked(tmp_path, [HERON])
    keep_asked(tmp_path, [Question(id="gull", question="Where?", answer="there")])
    found = read_asked(tmp_path)
    assert list(found) == ["heron", "gull"]
    assert found["heron"] == asked([HERON])["heron"]
    assert found["heron"].answers == ("1871", "1871年")
    assert found["heron"].evidence == ("Heron Point", "鸬鹚礁")
    assert "When was" not in (tmp_path / "questions.json").read_text(encoding="utf-8")
    keep_asked(tmp_path, [HERON])
    with pytest.raises(ConfigurationError, match="another question heron"):
        keep_asked(tmp_path, [Question(id="heron", question="Another?", answer="1871")])
    assert read_asked(tmp_path) == found


@pytest.mark.parametrize("content", ["{", "[]", '{"x": {"wrong": 1}}', '{"x": {"answers": [], "wrong": 1}}'])
def test_damaged_questions_are_told(tmp_path: Path, content: str) -> None:
    assert read_asked(tmp_path) == {}
    (tmp_path / "questions.json").write_text(content)
    with pytest.raises(UserInputError, match=r"questions\.json cannot be read"):
        read_asked(tmp_path)


def test_what_is_not_known_of_a_question() -> None:
    assert Asked(answers=("x",)) == Asked(answers=("x",), evidence=(), topic="", hops=0, digest="")


# Settings


def test_versions_and_time_may_change(tmp_path: Path) -> None:
    def keep(**changed: Any) -> None:
        given: dict[str, Any] = {
            "benchmark": "x",
            "data": "made up",
            "docs": tmp_path / "corpus",
            "flags": ["--a"],
        }
        keep_benchmark_settings(tmp_path, **given | changed)

    keep()
    file = tmp_path / "settings.json"
    found = json.loads(file.read_text())
    assert found["docs"] == "corpus", "the folder may be moved"
    assert {"created", "python", "versions"} <= found.keys()
    file.write_text(json.dumps(found | {"created": "long ago", "python": "2.7", "versions": {}}))
    keep()
    for changed in ({"data": "others"}, {"flags": []}, {"docs": None}, {"benchmark": "y"}):
        with pytest.raises(ConfigurationError, match="other settings"):
            keep(**changed)
    del found["docs"]
    file.write_text(json.dumps(found))
    keep()


def test_servers_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_urls([]) == {}
    assert server_urls(["--small-url", "http://a/v1"]) == {"small, large": "http://a/v1"}
    monkeypatch.setenv("AGENTINFER_SMALL__BASE_URL", "http://b/v1/")
    assert server_urls(["--large-url=http://a/v1"]) == {"small": "http://b/v1", "large": "http://a/v1"}


# Servers


class Counting(FakeOpenAI):
    """A server that says it has generated `tokens`."""

    tokens = 0

    def series(self) -> str:
        """What `/metrics` says."""
        return f'vllm:generation_tokens_total{{engine="0"}} {self.tokens}\nvllm:num_preemptions_total 1\n'


async def test_sittings_add_up(tmp_path: Path) -> None:
    assert read_segments(tmp_path) == {}
    with Counting() as server:
        urls = {"small": server.url, "large": "http://127.0.0.1:9/v1"}
        for counted in ((100, 150, 170), (300, 310)):  # nobody looks at what comes between
            segment = Segment(tmp_path, urls)
            server.tokens = counted[0]
            await segment.begin()
            for server.tokens in counted[1:]:
                await segment.look()
        killed = Segment(tmp_path, urls)
        await killed.begin()
        restarted = Segment(tmp_path, urls)
        await restarted.begin()
        server.tokens = 7
        await restarted.look()
    await restarted.look()
    found = read_segments(tmp_path)
    assert list(found) == ["small"], "the other one has no such page"
    assert found["small"].generated_tokens == 70 + 10 + 0 + 7
    rows = json.loads((tmp_path / "sittings.json").read_text())
    assert [row["ended"] is None for row in rows] == [False, False, True, False]


async def test_servers_without_figures(tmp_path: Path) -> None:
    with FakeOpenAI(owned_by="somebody") as server:
        segment = Segment(tmp_path, {"small": server.url, "large": "http://[bad"})
        await segment.begin()
        await segment.look()
    assert read_segments(tmp_path) == {}


# Charts


def _profile() -> Profile:
    turns = tuple(
        TurnTimes(
            agent="s",
            turn=turn,
            tier="small",
            useful=True,
            phases=Phases(think=2.0, act=1.0, distill=turn / 9),
        )
        for turn in range(20)
    )
    figures = {"calls": 2, "seconds": 1, "prompt_tokens": 2_000_000, "cached_tokens": 9, "output_tokens": 5}
    component = figures | {"ineffective_tokens": 700_000}
    return Profile(breakdown=Breakdown(turns=turns, components={"think small": component}), servers={})


@pytest.mark.parametrize("profile", [_profile(), Profile(breakdown=Breakdown(), servers={})])
def test_the_chart(tmp_path: Path, profile: Profile) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib")
    first = draw_profile(profile, tmp_path / "a.svg").read_bytes()
    assert draw_profile(profile, tmp_path / "b.svg").read_bytes() == first, (
        "nothing in it depends on the time"
    )
    assert first.startswith(b"<?xml")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match=r"pip install 'agentinfer-lg\[evals\]'"):
        draw_profile(_profile(), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_earlier_versions_have_no_profile(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="holds no results"):
        profile_run(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "q.json").write_text(json.dumps({"answer": "x"}))
    with pytest.raises(UserInputError, match="have no trace"):
        profile_run(tmp_path)


def test_keys_among_the_flags_are_not_written_down(tmp_path: Path) -> None:
    flags = [
        "--small-key",
        "sesame",
        "--large-key=mellon",
        "--small-url",
        "http://me:friend@host:1/v1",
        "--report",
        "brief",
    ]
    for _ in range(2):  # it goes on, too
        keep_benchmark_settings(tmp_path, benchmark="b", data="d", docs=None, flags=flags)
    text = (tmp_path / "settings.json").read_text(encoding="utf-8")
    assert not [secret for secret in ("sesame", "mellon", "friend") if secret in text]
    assert "host:1" in text
    assert "brief" in text
