"""Thoughts stay out of what the user sees, whatever marks them and wherever the text is cut."""

import re
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.reasoning import SplitText, split_reasoning

SECRET = "zqthought"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one kind of model marks a thought, and what it may write around the answer."""

    opens: str
    closes: str
    before: str = ""
    after: str = ""
    nests: bool = True
    template: bool = True
    """Whether the opening marker can be missing."""

    def thought(self, text: str) -> str:
        return f"{self.opens}{text}{self.closes}"

    def answer(self, text: str) -> str:
        return f"{self.before}{text}{self.after}"


FAMILIES = {
    **{
        name: Family(opens=f"<{name}>", closes=f"</{name}>")
        for name in (
            "think",
            "thinking",
            "thought",
            "thoughts",
            "reasoning",
            "seed:think",
            "mm:think",
            "THINK",
        )
    },
    "reflection": Family(
        opens="<reflection>", closes="</reflection>", before="\n<output>", after="</output>"
    ),
    "spaces": Family(opens="< think >", closes="< / think >"),
    "attributes": Family(opens='<think duration="3">', closes="</think>"),
    "answer": Family(opens="<think>", closes="</think>", before="\n<answer>\n", after="\n</answer>"),
    "response": Family(
        opens="<think>", closes="</think>", before="\n\n<response>\n", after="\n</response>\n"
    ),
    "ifm": Family(opens="<ifm|think_fast>", closes="</ifm|think_fast>"),
    "mistral": Family(opens="[THINK]", closes="[/THINK]"),
    "openthinker": Family(
        opens="<|begin_of_thought|>",
        closes="<|end_of_thought|>",
        before="\n\n<|begin_of_solution|>",
        after="<|end_of_solution|>",
    ),
    "medgemma": Family(opens="<unused94>thought\n", closes="<unused95>"),
    "cohere": Family(
        opens="<|START_THINKING|>",
        closes="<|END_THINKING|>",
        before="<|START_RESPONSE|>",
        after="<|END_RESPONSE|>",
    ),
    "granite": Family(
        opens="Here is my thought process: ", closes="\n\nHere is my response: ", nests=False, template=False
    ),
    "apriel": Family(
        opens="Here are my reasoning steps:\n",
        closes="\n[BEGIN FINAL RESPONSE]\n",
        after="\n[END FINAL RESPONSE]",
        nests=False,
    ),
    "box": Family(
        opens="<think>", closes="</think>", before="<answer><|begin_of_box|>", after="<|end_of_box|></answer>"
    ),
    "kimi": Family(opens="◁think▷", closes="◁/think▷"),
    "kimi k3": Family(
        opens="<|open|>think<|sep|>",
        closes="<|close|>think<|sep|>",
        before="<|open|>response<|sep|>",
        after="<|close|>response<|sep|>",
    ),
    "gemma": Family(opens="<|channel>thought\n", closes="<channel|>"),
    "plamo": Family(opens="<|plamo:begin_think:plamo|>", closes="<|plamo:end_think:plamo|>"),
    "content": Family(
        opens="<|message_model|><|content_thinking|>",
        closes="<|end_message|>",
        before="<|message_model|><|content_text|>",
        after="<|end_message|>",
        template=False,
    ),
    "harmony": Family(
        opens="<|channel|>analysis<|message|>",
        closes="<|end|>",
        before="<|start|>assistant<|channel|>final<|message|>",
        after="<|return|>",
        nests=False,
    ),
    "harmony guided": Family(
        opens="<|start|>assistant<|channel|>analysis<|message|>",
        closes="<|end|>",
        before="<|start|>assistant<|channel|>final <|constrain|>json<|message|>",
        after="<|end|>",
        nests=False,
    ),
    "harmony bare": Family(opens="analysis", closes="assistantfinal", nests=False),
}
CALLS = {
    "harmony": f"<|end|><|start|>assistant<|channel|>commentary to=functions.{SECRET} <|constrain|>json<|message|>"
    f'{{"a": "{SECRET}"}}<|call|><|start|>assistant<|channel|>analysis<|message|>{SECRET}',
    "harmony bare": f'assistantcommentary to=functions.{SECRET} json{{"a": "{SECRET}"}}assistantanalysis{SECRET}',
}
MARKERS = sorted(
    {
        marker
        for family in FAMILIES.values()
        for part in (family.opens, family.closes, family.before, family.after)
        for marker in re.findall(r"<\|(?:open|close)\|>\w+<\|sep\|>|<[^<>]+>|\[[^\]]+\]|◁[^▷]+▷", part)
    }
)
HTML = ("<output>", "</output>", "<response>", "</response>")
"""Markers only where there was a thought."""

families = st.sampled_from(sorted(FAMILIES))
words = st.lists(
    st.sampled_from(["We", "need", "the", "tide", "5 < 6.", "so", "潮汐", "\n", "1."]), max_size=5
)
thoughts = words.map(lambda found: " ".join([SECRET, *found, SECRET]))
answers = st.sampled_from(
    [
        "Oslo",
        "It is 42.",
        '{"action": "search", "query": "tide"}',
        "a < b",
        "<p>x</p>",
        "# A\n\n- b [1]",
        "答案",
    ]
)


def _clean(split: SplitText) -> None:
    """Nothing of a thought and nothing of a marker is visible."""
    visible = split.visible.lower()
    assert SECRET not in visible
    for marker in MARKERS:
        assert marker.lower() not in visible
        parts = (marker[:end].lower() for end in range(4, len(marker)))
        assert not visible.endswith(tuple(parts))
    assert split_reasoning(split.visible).visible == split.visible


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thought_and_its_answer(name: str) -> None:
    family = FAMILIES[name]
    assert split_reasoning(f"{family.thought('We need it')}{family.answer('Oslo')}") == SplitText(
        visible="Oslo", thoughts="We need it", cut=False, unopened=False
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.template])
@pytest.mark.parametrize("inside", [False, True])
def test_the_template_opens_the_thought(name: str, inside: bool) -> None:
    family = FAMILIES[name]
    text = f"We need it{family.closes}{family.answer('Oslo')}"
    assert split_reasoning(text, inside=inside) == SplitText(
        visible="Oslo", thoughts="We need it", cut=False, unopened=True
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thought_without_an_end(name: str) -> None:
    assert split_reasoning(f"{FAMILIES[name].opens}We need it") == SplitText(
        visible="", thoughts="We need it", cut=True, unopened=False
    )


@given(families, thoughts, answers, st.data())
def test_cut_anywhere(name: str, thought: str, answer: str, data: st.DataObject) -> None:
    family = FAMILIES[name]
    text = f"{family.thought(thought + CALLS.get(name, ''))}{family.answer(answer)}"
    assert split_reasoning(text).visible == answer
    end = data.draw(st.integers(0, len(text)))
    split = split_reasoning(text[:end], ended=False)
    _clean(split)
    assert answer.startswith(split.visible[:-3]), "at most three characters of a marker are left"


@given(families, thoughts, answers, st.data())
def test_cut_anywhere_in_a_thought_that_the_template_opened(
    name: str, thought: str, answer: str, data: st.DataObject
) -> None:
    family = FAMILIES[name]
    text = f"{thought}{family.closes}{family.answer(answer)}"
    end = data.draw(st.integers(0, len(text)))
    _clean(split_reasoning(text[:end], ended=False, inside=True))


@given(st.lists(st.tuples(families, thoughts, answers), min_size=1, max_size=4), st.data())
def test_several_thoughts(parts: list[tuple[str, str, str]], data: st.DataObject) -> None:
    pieces, visible = [], []
    for number, (name, thought, answer) in enumerate(parts):
        family = FAMILIES[name]
        if number and not family.nests:
            continue
        pieces.append(f"{family.thought(thought)}{family.answer(answer)}\n")
        visible.append(answer)
    text = "".join(pieces)
    assert split_reasoning(text).visible.split() == "\n".join(visible).split()
    _clean(split_reasoning(text[: data.draw(st.integers(0, len(text)))], ended=False))


nesting = [name for name, family in FAMILIES.items() if family.nests]


@given(families, st.sampled_from(nesting), thoughts, answers, st.data())
def test_thoughts_within_thoughts(
    outer: str, inner: str, thought: str, answer: str, data: st.DataObject
) -> None:
    around, within = FAMILIES[outer], FAMILIES[inner]
    inside = " ".join([thought, within.thought(thought), thought])
    text = f"{around.thought(inside)}{around.answer(answer)}"
    assert split_reasoning(text).visible == answer
    _clean(split_reasoning(text[: data.draw(st.integers(0, len(text)))], ended=False))


@given(families, thoughts, answers, st.data())
def test_cut_at_the_beginning(name: str, thought: str, answer: str, data: st.DataObject) -> None:
    family = FAMILIES[name]
    text = f"{family.thought(thought)}{family.answer(answer)}"
    begin = data.draw(st.integers(0, len(family.opens)))
    if family.template:
        assert split_reasoning(text[begin:]).visible == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Oslo",
        "I think, therefore I am.",
        "a < b and c > d, List<String>, <p>x</p>, <output>y</output>, </response>",
        "[THINKING] [1] [think about it] [ref]",
        "Here is my response: no.\nHere is my thought process"[27:],
        "finally, the analysis: commentary of the assistant, final",
        "Analysis of the tides. The final answer. Thought: x",
        "analysis of tides",
        "final answer",
        "commentary by Caesar",
        "x <thinker> <thoughtful> <re> <think-tank> <th>",
        '{"thought": "t", "reasoning": "r", "action": "answer"}',
        "$a <$ b [the",
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_text_without_markers_stays(text: str, ended: bool) -> None:
    assert split_reasoning(f" {text}\n", ended=ended) == SplitText(
        visible=text, thoughts="", cut=False, unopened=False
    )


@given(st.text(alphabet=st.sampled_from("abc <>/[]|`\n.1潮"), max_size=60))
def test_any_text_without_markers_stays(text: str) -> None:
    assert split_reasoning(text).visible == text.strip()


_fragments = st.sampled_from(
    [
        *MARKERS,
        *(
            "<think",
            "</think",
            "<thi",
            "nk>",
            "think>",
            "analysis",
            "final",
            "assistantfinal",
            "Foo",
            "A b",
            " ",
            "\n",
        ),
        *(
            "`",
            '"',
            "```",
            "Here is my thought process:",
            "Here is my response:",
            "<answer>",
            "</",
            "<",
            "|>",
            "<|",
        ),
        *("<|channel|>", "<|start|>", "final<|message|>", "<output>", "\U0001f600", "\ud800", "[", "[END"),
    ]
)


@given(st.lists(_fragments, max_size=12).map("".join) | st.text(), st.booleans(), st.booleans())
def test_no_marker_survives_whatever_the_text(text: str, inside: bool, ended: bool) -> None:
    split = split_reasoning(text, inside=inside, ended=ended)
    visible = split.visible.lower()
    assert not [marker for marker in MARKERS if marker not in HTML and marker.lower() in visible]
    assert split_reasoning(split.visible, ended=ended).visible == split.visible


@pytest.mark.parametrize(
    ("text", "visible", "cut"),
    [
        ("Some models write <think> first.", "Some models write  first.", False),
        ("It uses `<think>` and `</think>` tags.", "It uses `` and `` tags.", False),
        ("```\n<think>\n```\nis how it begins.", "```\n\n```\nis how it begins.", False),
        ("Oslo.\n<think>We need", "Oslo.", True),
        ("<think>The tag <think> opens it.</think>Oslo", "Oslo", False),
        ("<think>A <think> and <think>x</think> that</think>Oslo", "Oslo", False),
        ('<think>It ends with "</think>" so.</think>Oslo', "Oslo", False),
        ("We [THINK] so, in a way.</think>Oslo", "Oslo", False),
        ("<think广场 is bright", "广场 is bright", False),
        ("<thinkThe square is bright", "The square is bright", False),
        ("<think/>Oslo", "Oslo", False),
        ("<|start|>assistant<|channel|>final<|message|>Oslo<|return|>", "Oslo", False),
        ("finalOslo", "Oslo", False),
        ("<channel|>Oslo", "Oslo", False),
        ("Oslo<|end|>", "Oslo", False),
        ("<think>We need it. <answer>Oslo</answer>\n", "Oslo", False),
        ("<think>So <tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", False),
        ("<think>In <answer>x</answer> it goes, so", "", True),
        ("Oslo <thi", "Oslo", True),
        ("We need it </thi", "", True),
    ],
)
def test_mentions_and_broken_markers(text: str, visible: str, cut: bool) -> None:
    split = split_reasoning(text)
    assert (split.visible, split.cut) == (visible, cut)


def test_a_mention_counts_where_the_text_was_cut() -> None:
    assert split_reasoning("Some models write <think> first, then", ended=False) == SplitText(
        visible="Some models write", thoughts="first, then", cut=True, unopened=False
    )


def test_the_template_opened_a_thought_that_never_ends() -> None:
    assert split_reasoning("We need it", inside=True) == SplitText(
        visible="", thoughts="We need it", cut=True, unopened=False
    )


def test_the_model_repeats_what_the_template_opened() -> None:
    split = split_reasoning("\n<think>\nWe need it</think>Oslo", inside=True)
    assert split == SplitText(visible="Oslo", thoughts="We need it", cut=False, unopened=False)


def test_all_thoughts_are_kept() -> None:
    split = split_reasoning("<think>One</think>A\n[THINK]Two[/THINK] B\n<think>Three")
    assert split == SplitText(visible="A\n B", thoughts="One\nTwo\nThree", cut=True, unopened=False)


@pytest.mark.parametrize(
    "text",
    [
        "<think " * 150_000,
        "<think>" * 150_000,
        "</think>" * 125_000,
        "<thi" * 250_000,
        "<thi" * 100_000 + "nk>" * 100_000,
        "<think>" * 70_000 + "[/THINK]" * 70_000,
        "<|channel|>" * 90_000,
        "<think " + "a" * 1_000_000,
        "<" * 1_000_000,
        "< " * 500_000,
        " " * 1_000_000,
        "assistant" * 110_000,
        "assistantfinal" * 70_000,
        "a <think> b </think> " * 50_000,
    ],
    ids=lambda text: text[:20] + text[-8:],
)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    begin = time.process_time()
    split_reasoning(text)
    assert time.process_time() - begin < 30, "reading them again and again would take minutes"
