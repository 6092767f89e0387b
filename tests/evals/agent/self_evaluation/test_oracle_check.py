"""What a perfect Progress Check says of transcripts that the agent's own code wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage, convert_to_openai_messages

from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT
from agentinfer_lg.compression.originals import as_body
from agentinfer_lg.compression.view import Compaction, compressed_view
from agentinfer_lg.evals.agent.self_evaluation.oracle_check import Seen, is_progress, names_title, seen_in
from agentinfer_lg.evals.datasets.closed_world.world import World, generate_world
from agentinfer_lg.llm.protocol import Action, Step
from agentinfer_lg.llm.transcript import step_message, write_transcript
from agentinfer_lg.prompts import PROMPTS

Language = Literal["en", "zh"]
Mode = Literal["native", "json"]

EVIDENCE: dict[Language, tuple[str, ...]] = {
    "en": ("Spuldurth Governor", "Jangodd Museum", "Old Vaphonnow"),
    "zh": ("佩林芝气压计", "德伦肯博物馆", "《德努坦的灯火》"),
}
OTHER: dict[Language, str] = {"en": "Jangodd Cabinet", "zh": "德伦肯珍宝馆"}


class Session:
    """A seeker's transcript, in one language and form."""

    def __init__(self, language: Language, mode: Mode) -> None:
        self.prompts = PROMPTS[language]
        self.language, self.mode = language, mode
        self.evidence = EVIDENCE[language]
        self.other = OTHER[language]
        self.messages: list[AnyMessage] = [HumanMessage("Question: ?\nLook up:\n- [1] x: y", id="task")]
        self.turn = 0

    def step(self, tool: Any, **arguments: object) -> Session:
        """Let the agent make a step."""
        action = Action(tool=tool, arguments=arguments)
        self.messages.append(
            step_message(Step(thought="so", actions=(action,)), message_id=f"s-{self.turn}", raw=None)
        )
        self.turn += 1
        return self

    def search(self, *queries: str) -> Session:
        return self.step("web_search", queries=list(queries))

    def read(self, *numbers: int) -> Session:
        return self.step("crawl", sources=list(numbers), urls=[])

    def got(self, *lines: str) -> Session:
        """Let the last step have results."""
        call = self.messages[-1].tool_calls[0]  # type: ignore[union-attr]
        content = self.prompts.results.format(results="\n".join(lines) or self.prompts.no_results)
        self.messages.append(
            ToolMessage(content, tool_call_id=call["id"], name=call["name"], id=f"{call['id']}-result")
        )
        return self

    def chat(self, view: Sequence[AnyMessage] | None = None) -> list[dict[str, Any]]:
        """Return the messages of the Progress Check."""
        transcript = write_transcript(
            self.messages if view is None else view, mode=self.mode, prompts=self.prompts, question="?"
        )
        chat = convert_to_openai_messages([*transcript, HumanMessage(PROGRESS_PROMPT[self.language])])
        assert isinstance(chat, list)
        return chat

    @property
    def verdict(self) -> bool:
        return is_progress(self.chat(), self.evidence)


def shown(number: int, title: str, text: str = "Of it much is known.") -> str:
    return f"[{number}] {title}: {as_body(text)}"


@pytest.fixture(params=[(language, mode) for language in EVIDENCE for mode in ("json", "native")])
def session(request: pytest.FixtureRequest) -> Session:
    return Session(*request.param)


@pytest.fixture
def found(session: Session) -> Session:
    """The first document has been found, and one that only looks like the second."""
    return session.search(session.evidence[0]).got(shown(1, session.evidence[0]), shown(2, session.other))


def test_a_search_for_a_title_is_progress(session: Session) -> None:
    assert session.search(f"when was {session.evidence[0]} opened").verdict


def test_a_search_for_something_else_is_none(session: Session) -> None:
    assert not session.search(session.other, "maps").verdict


def test_the_next_hop_is_progress_and_one_after_it_too(found: Session) -> None:
    messages = list(found.messages)
    for title in found.evidence[1:]:
        found.messages = list(messages)
        assert found.search(found.other, title).verdict


def test_a_title_that_was_shown_is_none(found: Session) -> None:
    assert not found.search(f"{found.evidence[0]} 2").verdict


def test_a_query_that_was_made_is_none_though_nothing_came_of_it(found: Session) -> None:
    query = f"a b {found.evidence[1]}"
    found.search(query).got()
    again = f"{found.evidence[1].upper()}  b,  a!"
    assert not found.search(again if found.language == "en" else query).verdict
    found.messages.pop()
    assert found.search(f"{found.evidence[1]} x").verdict


def test_reading_an_evidence_document_is_progress_once(found: Session) -> None:
    assert found.read(2, 1).verdict == (found.mode == "native"), "of several, JSON steps have the first"
    found.messages.pop()
    assert found.read(1).verdict
    assert not found.got(shown(1, found.evidence[0], "All.")).read(1).verdict


def test_reading_anything_else_is_none(found: Session) -> None:
    assert not found.read(2).verdict
    found.messages.pop()
    assert not found.read(7).verdict
    found.messages.pop()
    assert not found.step("crawl", sources=[], urls=["https://example.org"]).verdict


def test_a_question_about_an_evidence_document_is_progress_once(found: Session) -> None:
    assert found.step("document_qa", source=1, question="when?").verdict
    assert not found.got("In 1900.").step("document_qa", source=1, question="When").verdict
    found.messages.pop()
    assert not found.step("document_qa", source=2, question="when?").verdict


def test_an_answer_is_progress_once_its_document_was_shown(found: Session) -> None:
    answer = {"answer": "", "sources": [1]}
    assert not found.step("finish", **answer).verdict
    found.messages.pop()
    found.search(found.evidence[2]).got(shown(3, found.evidence[2]))
    assert found.step("finish", **answer).verdict


def test_a_title_that_was_only_listed_was_not_shown(session: Session) -> None:
    title = session.evidence[0]
    left_out = session.prompts.left_out.format(titles=f"[1] {session.other}; [2] {title}")
    assert session.search("x").got(shown(3, session.other), left_out).search(title).verdict


def test_a_text_that_names_a_title_does_not_show_it(session: Session) -> None:
    first, second = session.evidence[:2]
    text = f"See {second}.\n[9] {second}: no.\n{second}: no."
    assert session.search(first).got(shown(1, first, text)).search(second).verdict


def test_recalling_an_evidence_document_is_progress_once(found: Session) -> None:
    assert found.step("recall", ticket=1, query="year").verdict
    assert not found.got(shown(1, found.evidence[0])).step("recall", ticket=1, query="place").verdict
    found.messages.pop()
    assert not found.step("recall", ticket=2, query="year").verdict


def test_what_compression_takes_away_is_still_known(found: Session) -> None:
    first, second = found.evidence[:2]
    before = seen_in(found.chat(), found.evidence)
    found.read(1).got(shown(1, first, "All of it."))
    before = seen_in(found.chat(), found.evidence, before=before)
    notes = f"{found.prompts.notes_heading.format(numbers='[1]')}\n[1] {second}: 1900."
    last = str(found.messages[-1].id)
    found.search(first)
    swap = Compaction(
        ticket="t",
        upto=last,
        folded=str(found.messages[2].id),
        text=notes,
        turn=1,
        tokens_before=1,
        tokens_after=1,
    )
    chat = found.chat(compressed_view(found.messages, swap, stub=lambda numbers: f"{numbers}"))
    assert not is_progress(chat, found.evidence, before=before)
    found.messages[-1:] = []
    found.search(second)
    chat = found.chat(compressed_view(found.messages, swap, stub=lambda numbers: f"{numbers}"))
    assert is_progress(chat, found.evidence, before=before)
    assert seen_in(chat, found.evidence, before=before).titles == {1: first, 2: ""}


def test_what_is_no_step_is_no_progress() -> None:
    assert not is_progress([], ("A",))
    assert not is_progress([{"role": "user", "content": "A"}], ("A",))
    assert not is_progress([{"role": "assistant", "content": "Let me think of A."}], ("A",))
    call = {"function": {"name": "web_search", "arguments": "{"}}
    assert not is_progress([{"role": "assistant", "content": None, "tool_calls": [call]}], ("A",))
    assert seen_in([], ("A",)) == Seen()


def test_parts_of_a_message_are_read_like_a_text() -> None:
    parts = [{"type": "text", "text": '{"thought": "", "action": "search", "query": "Old Vaphonnow"}'}]
    assert is_progress([{"role": "assistant", "content": parts}], EVIDENCE["en"])


WORLD = generate_world(seed=7, questions=12)


@given(st.sampled_from(WORLD.questions), st.data())
def test_case_width_and_other_words_make_no_difference(question: Any, data: st.DataObject) -> None:
    title = data.draw(st.sampled_from(question.evidence))
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in title)
    written = data.draw(st.sampled_from([title, title.upper(), title.casefold(), wide]))
    around = st.sampled_from(["", "the year of ", "在哪一年 ", "maps, "])
    assert names_title(data.draw(around) + written + " " + data.draw(around), title)


def _names(world: World) -> list[tuple[str, str]]:
    return [
        (document.title, document.near)
        for document in world.documents
        if document.kind == "distractor" and document.title != document.near
    ]


@pytest.mark.parametrize(("title", "near"), _names(WORLD))
def test_similar_names_are_other_names(title: str, near: str) -> None:
    assert not names_title(title, near)


def test_a_title_of_function_words_is_named_as_a_whole() -> None:
    assert names_title("the film «It»", "It")
    assert not names_title("the film", "It")
    assert not names_title("anything", "")


@given(st.sampled_from(WORLD.questions), st.sampled_from(["json", "native"]))
def test_the_straight_way_is_progress_all_along_and_no_step_twice(question: Any, mode: Mode) -> None:
    session = Session("zh" if question.topic.startswith("zh") else "en", mode)
    session.evidence = question.evidence
    for number, title in enumerate(question.evidence, start=1):
        for tool, arguments in (
            ("web_search", {"queries": [title]}),
            ("crawl", {"sources": [number], "urls": []}),
        ):
            assert session.step(tool, **arguments).verdict
            assert not session.got(shown(number, title)).step(tool, **arguments).verdict
            session.messages.pop()
    assert session.step("finish", answer="", sources=[]).verdict
