from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.text import one_spaced
from typer.testing import CliRunner

from agentinfer_lg.cli.bench import app
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.progress.run import SUBSETS, judge, read_runs, run, score

DATA = os.environ.get("AGENTINFER_DATA")
FACTS = [
    "The bridge was opened in 1932 after eight years of work.",
    "The harbour was dredged in 1961 by the port authority.",
    "The railway reached the town in 1874 from the north.",
]


def surfer(did: str, fact: str) -> dict[str, str]:
    return {"role": "WebSurfer", "content": f"I typed '{did}' into the search box.\n\n{fact}"}


def terminal(output: str, code: int = 0) -> dict[str, str]:
    state = "execution succeeded" if code == 0 else "execution failed"
    return {
        "role": "user",
        "name": "Computer_terminal",
        "content": f"exitcode: {code} ({state})\nCode output: {output}",
    }


def expert(program: str) -> dict[str, str]:
    text = f"Let us run this.\n```python\n{program}\n```" if program else "There is nothing to run."
    return {"role": "assistant", "name": "Data_Expert", "content": text}


def ledger(*, loop: bool, progress: bool, reason: str) -> dict[str, str]:
    entries = {
        "is_in_loop": {"reason": reason, "answer": loop},
        "is_progress_being_made": {"reason": reason, "answer": progress},
    }
    return {"role": "Orchestrator (thought)", "content": f"Updated Ledger:\n{json.dumps(entries)}"}


def write_run(folder: Path, name: str, history: list[dict[str, str]], mistake: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"question_ID": name, "history": history, "mistake_step": str(mistake)}
    (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def surfing(tmp_path: Path) -> Path:
    history = [
        {"role": "human", "content": "When was the bridge opened?"},
        surfer("bridge", FACTS[0]),
        surfer("harbour", FACTS[1]),
        surfer("bridge", FACTS[0]),
        surfer("bridge", FACTS[0]),
        surfer("railway", FACTS[2]),
    ]
    write_run(tmp_path / "runs", "a", history, mistake=3)
    return tmp_path / "runs"


def test_a_stall_is_flagged_when_it_happens(surfing: Path) -> None:
    judged = judge(read_runs(surfing)[0], repeat_limit=2, stall_limit=2)
    assert judged == {1: False, 2: False, 3: False, 4: True, 5: False}


def test_later_steps_do_not_change_earlier_judgements(surfing: Path, tmp_path: Path) -> None:
    history = json.loads((surfing / "a.json").read_text())["history"]
    full = judge(read_runs(surfing)[0], repeat_limit=1, stall_limit=1)
    for length in range(4, len(history)):
        write_run(tmp_path / f"cut{length}", "a", history[:length], mistake=3)
        cut = judge(read_runs(tmp_path / f"cut{length}")[0], repeat_limit=1, stall_limit=1)
        assert cut == {step: flag for step, flag in full.items() if step < length}


def test_the_score_counts_by_the_label(surfing: Path) -> None:
    scored = score(surfing, repeat_limit=2, stall_limit=2)
    assert (scored.runs, scored.steps, scored.rounds, scored.flags) == (1, 6, 5, 1)
    assert (scored.good_steps, scored.good_rounds, scored.false_alarms) == (3, 2, 0)
    assert (scored.hits.by_label, scored.hits.at_label) == (0.0, 0.0)
    assert (scored.hits.soon_after, scored.hits.from_label, scored.hits.anywhere) == (1.0, 1.0, 1.0)
    assert scored.late_rate == pytest.approx(1 / 3)
    assert scored.chance.at_label == pytest.approx(1 / 5)
    assert scored.chance.anywhere == pytest.approx(1 - 0.8**5)


def test_a_flag_before_the_label_is_a_false_alarm(surfing: Path) -> None:
    scored = score(surfing, repeat_limit=1, stall_limit=1)
    assert (scored.flags, scored.false_alarms) == (2, 0)
    history = json.loads((surfing / "a.json").read_text())["history"]
    write_run(surfing, "a", history, mistake=5)
    scored = score(surfing, repeat_limit=1, stall_limit=1)
    assert (scored.false_alarms, scored.false_alarms_per_run, scored.early_rate) == (2, 2.0, 0.5)
    assert scored.false_alarms_per_good_step == pytest.approx(2 / 5)
    assert scored.late_rate == 0.0


def test_programs_that_fail_or_print_nothing_bring_no_evidence(tmp_path: Path) -> None:
    history = [
        expert("print(1)"),
        terminal(FACTS[0]),
        expert("print(2)"),
        terminal("Traceback one", code=1),
        expert("print(3)"),
        terminal(""),
        expert(""),
        {"role": "user", "name": "Computer_terminal", "content": "There is no code from the last 1 message."},
    ]
    write_run(tmp_path, "a", history, mistake=0)
    judged = judge(read_runs(tmp_path)[0], repeat_limit=9, stall_limit=2)
    assert judged == {1: False, 3: False, 5: True, 6: False, 7: False}


def test_the_ledger_of_the_system_is_scored_too(tmp_path: Path) -> None:
    history = [
        ledger(loop=False, progress=True, reason="We have only begun to look for the bridge."),
        surfer("bridge", FACTS[0]),
        ledger(loop=True, progress=True, reason="The same page was opened once more today."),
        surfer("harbour", FACTS[1]),
        ledger(loop=False, progress=False, reason="Nothing that helps was on any of the pages."),
        {"role": "Orchestrator (thought)", "content": "Updated Ledger: {is_in_loop: broken"},
    ]
    for subset in SUBSETS:
        write_run(tmp_path / subset, "a", history, mistake=3)
    result: dict[str, Any] = run(tmp_path)
    own = result["Hand-Crafted"]["self_report"]
    assert (own["rounds"], own["flags"], own["false_alarms"]) == (4, 2, 1)
    assert json.loads(json.dumps(result)) == result


def test_tuned_limits_are_scored_on_other_runs(tmp_path: Path) -> None:
    for number in range(12):
        history = [surfer("bridge", FACTS[step % 3]) for step in range(6)]
        for subset in SUBSETS:
            write_run(tmp_path / subset, f"question-{number}", history, mistake=3)
    folder = tmp_path / "Hand-Crafted"
    halves = [score(folder, repeat_limit=2, stall_limit=2, part=part).runs for part in ("tune", "report")]
    assert sum(halves) == 12
    assert min(halves) > 0
    result: dict[str, Any] = run(tmp_path)
    assert result["Hand-Crafted"]["tuned"]["score"]["runs"] == halves[1]


@pytest.mark.parametrize(
    "content", ["not json", "[]", "{}", '{"question_ID": "a", "history": [{"role": "x"}], "mistake_step": 0}']
)
def test_a_malformed_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(UserInputError, match=r"odd\.json"):
        read_runs(tmp_path)


def test_a_label_outside_the_run_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "a", [surfer("x", FACTS[0])], mistake=1)
    with pytest.raises(UserInputError, match="labels step 1 of a run of 1 steps"):
        read_runs(tmp_path / "a")
    with pytest.raises(UserInputError, match="holds no runs"):
        run(tmp_path / "nowhere")


def test_the_command_prints_a_table_and_writes_json(surfing: Path, tmp_path: Path) -> None:
    for subset in SUBSETS:
        history = json.loads((surfing / "a.json").read_text())["history"]
        write_run(tmp_path / subset, "a", history, mistake=3)
    target = tmp_path / "score.json"
    result = CliRunner().invoke(app, ["progress", "--data", str(tmp_path), "--json", str(target)])
    assert result.exit_code == 0, result.output
    assert "| Hand-Crafted (1) | verifier | 0% (49%) |" in one_spaced(result.output)
    assert json.loads(target.read_text())["Hand-Crafted"]["given"]["flags"] == 1


@pytest.mark.skipif(DATA is None, reason="AGENTINFER_DATA is not set")
def test_who_and_when_is_read_whole() -> None:
    result: dict[str, Any] = run(Path(str(DATA)) / "who-and-when")
    generated, crafted = (result[subset]["given"] for subset in SUBSETS)
    assert (generated["runs"], generated["steps"]) == (75, 639)
    assert (crafted["runs"], crafted["steps"]) == (34, 1591)
    assert crafted["late_rate"] > 2 * crafted["early_rate"]
