"""The granularity benchmark against a scripted server: which policy sees what, and what is kept."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import FakeOpenAI, Reply, render_prompt
from typer.testing import CliRunner

from agentinfer_lg.cli import app
from agentinfer_lg.compression.distillate import Distillate, Fact, with_details
from agentinfer_lg.compression.extract import exact_strings
from agentinfer_lg.compression.originals import Original, recall_text
from agentinfer_lg.evals.compression.granularity.figures import difference, figures
from agentinfer_lg.evals.compression.granularity.run import Row
from agentinfer_lg.evals.compression.granularity.tasks import REPORTED, generated_session
from agentinfer_lg.prompts import PROMPTS

SESSION = generated_session(REPORTED[0])


class Reader:
    """Distils nothing of use, recalls what is asked for if it may, and answers from what it is shown."""

    def __init__(self, *, recalls: bool = True) -> None:
        self.recalls = recalls
        self.prompts: dict[str, list[str]] = {}

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        role = request["vllm_xargs"]["agent_role"]
        text = render_prompt(request)
        self.prompts.setdefault(role, []).append(text)
        probe = next(probe for probe in SESSION.probes if role == "distill" or probe.question in text)
        if role == "distill":
            return Reply(text="[1] It is one of the things on record.\n")
        if role == "think":
            pattern = request["structured_outputs"]["regex"]
            may_answer = "answer" in pattern
            step: dict[str, object] = {"known": "k", "missing": "m", "action": "answer"}
            if re.search(rf"[(|]{probe.number}[)|]", pattern) and (self.recalls or not may_answer):
                step |= {"action": "recall", "source": probe.number, "about": probe.question[:60]}
            return Reply(text=json.dumps(step))
        return Reply(text=f"It is {probe.answer}." if probe.answer in text else "I cannot tell.")


def run(server: FakeOpenAI, out: Path, *flags: str) -> tuple[str, list[dict[str, Any]]]:
    file = out / "figures.json"
    arguments = [
        "bench",
        "granularity",
        "--url",
        server.url,
        "--seeds",
        "1",
        "--out",
        str(out),
        "--json",
        str(file),
    ]
    result = CliRunner().invoke(app, [*arguments, *flags])
    assert result.exit_code == 0, result.output
    return result.output, json.loads(file.read_text())["rows"]


def of(rows: list[dict[str, Any]], policy: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["policy"] == policy]


def test_details_are_lost_in_notes_and_come_back_with_recall(tmp_path: Path) -> None:
    with FakeOpenAI(Reader()) as server:
        output, rows = run(server, tmp_path, "--policies", "full,notes,recall,reading")
    assert all(row["right"] for policy in ("full", "recall", "reading") for row in of(rows, policy))
    assert not any(row["right"] for row in of(rows, "notes"))
    assert all(row["recalls"] == 1 and row["recalled_right"] for row in of(rows, "recall"))
    assert not any(row["recalls"] for row in of(rows, "notes"))
    full, notes = (of(rows, policy)[0]["prompt_tokens"] for policy in ("full", "notes"))
    assert notes < 0.7 * full
    assert "recall against full on the same 6 tasks: +0.0 points" in output


def test_a_reader_that_never_recalls_is_made_to_where_notes_lack_the_detail(tmp_path: Path) -> None:
    with FakeOpenAI(Reader(recalls=False)) as server:
        _, rows = run(server, tmp_path, "--policies", "recall,recall-guided,recall-auto,extract-recall")
    assert not any(row["recalls"] or row["right"] for row in of(rows, "recall") if not row["shown"])
    assert all(row["right"] for row in of(rows, "recall-guided"))
    for policy in ("recall-auto", "extract-recall"):
        assert all(
            row["right"] and row["recalls"] == 1 and not row["step_tokens"] for row in of(rows, policy)
        )


def test_the_notes_name_what_can_be_recalled_and_the_question_comes_last(tmp_path: Path) -> None:
    reader = Reader()
    with FakeOpenAI(reader) as server:
        run(server, tmp_path, "--policies", "recall")
    title = SESSION.originals[6].title
    for prompt in reader.prompts["think"]:
        assert f"[7] {title}" in prompt
    assert all(prompt.rstrip().endswith("Answer in a few words.") for prompt in reader.prompts["qa"])
    assert not any(
        probe.question in prompt for probe in SESSION.probes for prompt in reader.prompts["distill"]
    )


def test_what_is_finished_is_not_asked_again(tmp_path: Path) -> None:
    with FakeOpenAI(Reader()) as server:
        _, first = run(server, tmp_path, "--policies", "notes")
        before = len(server.chats)
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write('{"session": "generated-1')  # an interrupt in the middle of a line
        _, second = run(server, tmp_path, "--policies", "notes")
        assert len(server.chats) == before
        assert second == first
        run(server, tmp_path, "--policies", "notes,full")
        assert len(server.chats) == before + len(SESSION.probes)


def test_notes_can_be_made_before_the_reader_is_there(tmp_path: Path) -> None:
    reader = Reader()
    with FakeOpenAI(reader) as server:
        run(server, tmp_path, "--only-distill")
        assert set(reader.prompts) == {"distill"}
        run(server, tmp_path, "--policies", "notes")
    assert len(reader.prompts["distill"]) <= 2


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    with FakeOpenAI(Reader()) as server:
        run(server, tmp_path, "--policies", "full")
        arguments = ["bench", "granularity", "--url", server.url, "--seeds", "1", "--out", str(tmp_path)]
        result = CliRunner().invoke(app, [*arguments, "--set", "notes_tokens=500"])
    assert result.exit_code != 0
    assert "--out" in str(result.exception)


@pytest.mark.parametrize(
    "flags", [["--policies", "nothing"], ["--policies", "full,full"], ["--tasks", "x"], ["--part", "x"]]
)
def test_flags_that_make_no_sense(flags: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "granularity", "--out", str(tmp_path), *flags])
    assert result.exit_code != 0
    assert flags[0] in str(result.exception)


def row(session: str, probe: int, policy: str, right: bool) -> Row:
    return Row(
        session=session, set="generated", language="en", probe=probe, kind="price", policy=policy, question="?",
        expected="1", answer="1", right=right, in_notes=False, shown=True, recalls=0, recalled_right=False,
        prompt_tokens=10, step_tokens=0, output_tokens=1, removed=2, failure="", number=1,
    )  # fmt: skip


def test_differences_are_paired_and_drawn_by_session() -> None:
    rows = [row(f"s{s}", p, "full", True) for s in range(4) for p in range(2)]
    rows += [row(f"s{s}", p, "notes", s < 2) for s in range(4) for p in range(2)]
    rows.append(row("s9", 0, "notes", True))  # without a partner
    (each,) = difference(rows, "notes", "full")
    assert (each.tasks, each.points, each.won, each.lost) == (8, -50.0, 0, 4)
    assert (each.low, each.high) == (-100.0, 0.0), "whole sessions are drawn"
    (same,) = difference(rows, "full", "full")
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)
    accuracy = {item.policy: item.accuracy for item in figures(rows)}
    assert accuracy == {"full": 1.0, "notes": pytest.approx(5 / 9)}
    assert difference(rows, "recall", "full") == []


ORIGINALS = [
    Original(1, "Copper Lynx pump", "Its order number is GX-118-B. It stands in the old hall."),
    Original(2, "Amber Heron press", "Its order number is GX-181-B. It stands in the new hall."),
]


def test_a_recall_under_the_wrong_number_brings_the_right_result_too() -> None:
    text = recall_text(ORIGINALS, 2, "order number of the Copper Lynx pump", tokens=500)
    assert text.splitlines()[0].startswith("[2] Amber Heron press: ")
    assert text.splitlines()[1] == f"[1] Copper Lynx pump: {ORIGINALS[0].text}"


def test_a_recall_under_the_right_number_brings_that_alone() -> None:
    text = recall_text(ORIGINALS, 1, "order number of the Copper Lynx pump", tokens=500)
    assert text == f"[1] Copper Lynx pump: {ORIGINALS[0].text}"


def test_every_title_is_told_even_where_the_budget_is_small() -> None:
    originals = [Original(n, f"Thing {n}", f"Its code is GX-{n:03}-B. " * 3) for n in range(1, 31)]
    notes = with_details(Distillate(), originals, tokens=250).after(Distillate(), queries=["q"], tokens=1600)
    assert [detail.number for detail in notes.details] == list(range(1, 31))
    assert all(detail.text.startswith(f"Thing {detail.number}") for detail in notes.details)


def test_strings_are_listed_whole_or_not_at_all() -> None:
    originals = [
        Original(
            n, f"Thing {n}", f"Its code is GX-{n:03}-B, renewed on {n} August 2020. Call 555-{n + 100}-8000."
        )
        for n in range(1, 16)
    ]
    notes = with_details(Distillate(), originals, tokens=400).after(Distillate(), queries=["q"], tokens=1000)
    for detail, original in zip(notes.details, originals, strict=True):
        title, _, strings = detail.text.partition(": ")
        assert title == original.title
        assert "…" not in strings
        whole = (
            f"GX-{original.number:03}-B",
            f"{original.number} August 2020",
            f"555-{original.number + 100}-8000",
        )
        assert set(strings.split("; ")) <= set(whole)
        assert strings


def test_telephone_numbers_and_versions_are_one_string() -> None:
    text = "Call 555-539-6832 about version v3.20.24 of the software, since 2021-03-04."
    assert exact_strings(text, tokens=100) == ["555-539-6832", "v3.20.24", "2021-03-04"]


def test_a_fact_that_does_not_name_its_subject_gets_the_title() -> None:
    bare, whole = (
        Fact(2, "Its order number is GX-181-B."),
        Fact(1, "The Copper Lynx pump stands in the old hall."),
    )
    notes = with_details(Distillate(facts=(whole, bare)), ORIGINALS, tokens=100)
    lines = notes.text(PROMPTS["en"], recall=False).splitlines()
    assert lines[1:] == [f"[1] {whole.text}", "[2] Its order number is GX-181-B. (Amber Heron press)"]
    assert notes.facts == (whole, bare), "what is kept stays word for word"
