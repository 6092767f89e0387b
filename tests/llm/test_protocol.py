"""The protocol: whatever a model writes becomes a checked step, and nothing raises."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.protocol import (
    MAX_QUERIES,
    READ_ANSWER,
    Action,
    Choices,
    Step,
    action_regex,
    action_schema,
    as_tool_call,
    parse_step,
    read_tool_call,
    tool_definitions,
)

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["search", "read", "answer", "ask", "[2]", "\ud800", "{"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["thought", "action", "query", "queries", "source", "sources", "url", "answer", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def _search(*queries: str) -> Action:
    return Action(tool="web_search", arguments={"queries": list(queries)})


def _check(step: Step) -> None:
    """What every later part relies on."""
    assert len(step.thought) <= 2000
    assert "\n" not in step.thought
    step.thought.encode()
    assert len(step.actions) <= 1
    for action in step.actions:
        arguments = action.arguments
        json.dumps(arguments, ensure_ascii=False).encode()
        match action.tool:
            case "web_search":
                assert 0 < len(arguments["queries"]) <= MAX_QUERIES
                assert all(query.strip() and len(query) <= 500 for query in arguments["queries"])
            case "crawl":
                assert arguments["sources"] or arguments["urls"]
                assert all(type(number) is int and 0 <= number < 10_000 for number in arguments["sources"])
                assert all(isinstance(url, str) and url for url in arguments["urls"])
            case "document_qa":
                assert type(arguments["source"]) is int
                assert arguments["question"]
            case "finish":
                assert arguments["answer"]
                assert isinstance(arguments["sources"], list)
            case "read_answer":
                assert isinstance(arguments["sources"], list)


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ('{"thought": "t", "action": "search", "query": "who"}', "t", _search("who")),
        ('{"action": "search", "queries": ["a", "b", "a", ""]}', "", _search("a", "b")),
        (
            '{"thought": "t", "action": "read", "source": 2}',
            "t",
            Action(tool="crawl", arguments={"sources": [2], "urls": []}),
        ),
        (
            '{"thought": "t", "action": "read", "url": "http://a.example/x"}',
            "t",
            Action(tool="crawl", arguments={"sources": [], "urls": ["http://a.example/x"]}),
        ),
        (
            '{"thought": "t", "action": "ask", "source": "[3]", "question": "why?"}',
            "t",
            Action(tool="document_qa", arguments={"source": 3, "question": "why?"}),
        ),
        (
            '{"thought": "t", "action": "answer"}',
            "t",
            READ_ANSWER,
        ),
        (
            '{"thought": "t", "action": "answer", "answer": "1871"}',
            "t",
            Action(tool="finish", arguments={"answer": "1871", "sources": []}),
        ),
        (
            'Sure!\n```json\n{"thought": "two\\n lines", "action": "search", "query": "who"}\n```\nDone.',
            "two lines",
            _search("who"),
        ),
        ('{"x": 1} then {"thought": "t", "action": "search", "query": "who"}', "t", _search("who")),
        ('{broken {"thought": "t", "action": "search", "query": "who"}', "t", _search("who")),
        ('{"thought": "t", "action": "search", "query": "wh', "t", _search("wh")),
        ('{"thought": "t", "action": "search", "query": "who", "more": ["a', "t", _search("who")),
        (
            '{"thought": "raw\nline break", "action": "search", "query": "who"}',
            "raw line break",
            _search("who"),
        ),
        ('{"思": 1, "thought": "想", "action": "search", "query": "谁"}', "想", _search("谁")),
    ],
)
def test_steps_that_can_be_read(text: str, thought: str, action: Action) -> None:
    assert parse_step(text) == Step(thought=thought, actions=(action,))


@pytest.mark.parametrize(
    ("text", "thought", "query"),
    [
        (r'{"action":"search","query":"\u4e2d\u56fd \"a\" b', "", '中国 "a" b'),
        (r'{"thought": "caf\u00e9", "action": "search", "query": "wh', "café", "wh"),
        ("{'thought': 't', 'action': 'search', 'query': 'who'}", "t", "who"),
        ("{'thought': None, 'action': 'search', 'query': \"who's\"}", "", "who's"),
        ('{"thought": "t", "action": "search", "query": "who",}', "t", "who"),
        ("{thought: t, action: search, query: who is it}", "t", "who is it"),
        ("{“thought”: “t”, “action”: “search”, “query”: “who”}", "t", "who"),
        (
            '{"thought": "He said "no" to it", "action": "search", "query": "who"}',
            'He said "no" to it',
            "who",
        ),
        ('{"thought": "t" "action": "search" "query": "who"}', "t", "who"),
        ('{"thought": "t", // why\n"action": "search", "query": "who"', "t", "who"),
        ('Sure:\n```json\n{"thought": "t", "action": "search", "query": "who",\n```', "t", "who"),
        ('The set {x} of {y}. {"thought": "t", "action": "search", "query": "wh', "t", "wh"),
        ('{"thought": "t", "action": "search", "query": "who", "by": {"a": 1}, "more": ["b', "t", "who"),
        ('"thought": "t", "action": "search", "query": "who"', "t", "who"),
        ('{"thought": "t", "action": "search", "queries": ["who", "wh', "t", ("who", "wh")),
    ],
)
def test_steps_that_are_nearly_json(text: str, thought: str, query: str | tuple[str, ...]) -> None:
    queries = (query,) if isinstance(query, str) else query
    assert parse_step(text) == Step(thought=thought, actions=(_search(*queries),))


@pytest.mark.parametrize(
    "text",
    [
        "I could search {this} or {that: answer}.",
        "def f(): return {action, query}",
        "The action: search. The query: who.",
        "{action}",
        "{search: who}",
        'function() { return action: "search"; query }',
        '{"thoughts": "search", "acti',
        '{"query": "who"',
        "{{{[[[",
        "\\begin{answer} 4 \\end{answer}",
        "{'action': 'search'",
        "{thought action answer}",
    ],
)
def test_garbage_does_nothing(text: str) -> None:
    assert parse_step(text).actions == ()


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"action": "read", "source": [2', Action(tool="crawl", arguments={"sources": [2], "urls": []})),
        (
            "<tool_call>{'name': 'web_search', 'arguments': {'queries': ['who']}}</tool_call>",
            _search("who"),
        ),
        ('<tool_call>{"name": "web_search", "arguments": {"queries": ["who", "wh', _search("who", "wh")),
    ],
)
def test_other_actions_that_are_nearly_json(text: str, action: Action) -> None:
    assert parse_step(text).actions == (action,)


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("", ""),
        ("I do not know  what to do.", "I do not know what to do."),
        ('{"thought": "I only think"}', "I only think"),
        ('{"thought": "t", "action": "delete", "query": "x"}', "t"),
        ('{"thought": "t", "action": "search", "query": ""}', "t"),
        ('{"thought": "t", "action": "search", "query": 5}', "t"),
        ('{"thought": "t", "action": "read", "source": "all of them"}', "t"),
        ('{"thought": "t", "action": "read", "source": true}', "t"),
        ('{"thought": "t", "action": ["search"], "query": "x"}', "t"),
        ('{"thought": 7, "action": null}', ""),
        ("[1, 2]", "[1, 2]"),
        ('{"other": 1}', '{"other": 1}'),
    ],
)
def test_steps_without_an_action(text: str, thought: str) -> None:
    assert parse_step(text) == Step(thought=thought)


@given(st.text() | _json.map(json.dumps) | _json.map(lambda v: json.dumps(v, ensure_ascii=False)))
def test_never_raises(text: str) -> None:
    _check(parse_step(text))


@given(_json.map(json.dumps), st.integers(0, 400), st.text(max_size=10))
def test_never_raises_cut_off_and_wrapped(text: str, end: int, around: str) -> None:
    _check(parse_step(around + text[:end] + around))


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        '{"a":' * 200_000,
        '{"thought": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"thought": "' + "x" * 1_000_000,
        '{"thought": "' + "\\" * 1_000_000,
        '"thought": "' * 80_000,
        '{"thought": ' + "{1, 1, 1, " * 100_000,
        '{"thought" ' + '"a' * 500_000,
        "{thought: b c " * 70_000,
        '{"thought": "t", "action": "read", "source": ' + "9" * 10_000 + "}",
        "a" * 1_000_000,
    ],
    ids=[
        "braces",
        "objects",
        "lists",
        "long",
        "escapes",
        "keys",
        "nested",
        "quotes",
        "bare",
        "digits",
        "letters",
    ],
)
def test_huge_and_deep(text: str) -> None:
    begin = time.process_time()
    _check(parse_step(text))
    assert time.process_time() - begin < 30, "what is repaired is bounded; all of it would take minutes"


def test_half_a_character_never_reaches_the_wire() -> None:
    # json.loads lets a lone \ud83d through; no server and no checkpoint takes it.
    step = parse_step('{"thought": "a\\ud83d", "action": "search", "query": "\\ude00 lamp"}')
    _check(step)
    assert "lamp" in step.actions[0].arguments["queries"][0]
    call = read_tool_call("web_search", {"queries": ["lamp \udc80"]})
    assert call is not None
    json.dumps(call.arguments, ensure_ascii=False).encode()


_choices = (
    st.builds(
        dict,
        search=st.booleans(),
        read=st.lists(st.integers(1, 99), unique=True, max_size=10).map(tuple),
        answer=st.booleans(),
        results=st.booleans(),
    )
    .filter(lambda drawn: drawn["search"] or drawn["read"] or drawn["answer"])
    .map(lambda drawn: Choices(**drawn))
)
_TOOL_OF = {"search": "web_search", "read": "crawl", "answer": "read_answer"}


def _options(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Properties of each option by its action."""
    options = schema.get("anyOf", [schema])
    return {option["properties"]["action"]["const"]: option for option in options}


def _possible(choices: Choices) -> set[str]:
    possible = {"search": choices.search, "read": bool(choices.read), "answer": choices.answer}
    return {action for action, allowed in possible.items() if allowed}


def test_a_step_needs_something_to_do() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Choices(search=False)


@given(_choices)
def test_every_option_of_the_schema_parses_back(choices: Choices) -> None:
    options = _options(action_schema(choices))
    assert set(options) == _possible(choices), "only possible actions are offered"
    for action, option in options.items():
        properties = option["properties"]
        assert option["additionalProperties"] is False
        assert option["required"] == list(properties)
        assert option["required"][0] in ("thought", "known"), "a model that thinks first chooses better"
        for number in properties.get("source", {"enum": [None]})["enum"]:
            values = dict.fromkeys(properties, "note") | {
                "action": action,
                "source": number,
                "query": "who is it",
            }
            step = parse_step(json.dumps({name: values[name] for name in properties}))
            assert [done.tool for done in step.actions] == [_TOOL_OF[action]]
            assert "note" in step.thought
            if number is not None:
                assert number in choices.read
                assert step.actions[0].arguments == {"sources": [number], "urls": []}


@given(_choices, st.data())
def test_every_match_of_the_regex_parses_back(choices: Choices, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(action_regex(choices), fullmatch=True))
    value = json.loads(text, strict=False)
    assert value["action"] in _possible(choices)
    assert list(value)[: len(choices.notes)] == list(choices.notes)
    step = parse_step(text)
    _check(step)
    if value["action"] != "search" or value["query"].split():
        assert [done.tool for done in step.actions] == [_TOOL_OF[value["action"]]]
    if value["action"] == "read":
        assert step.actions[0].arguments["sources"] == [value["source"]]
        assert value["source"] in choices.read


@given(_choices)
def test_regex_and_schema_say_the_same(choices: Choices) -> None:
    pattern = re.compile(action_regex(choices))
    for action in _TOOL_OF:
        for source in {*choices.read, 100}:
            ending = {"search": {"query": "who is it"}, "read": {"source": source}, "answer": {}}[action]
            text = json.dumps(dict.fromkeys(choices.notes, "note") | {"action": action} | ending)
            wanted = action in _possible(choices) and (action != "read" or source in choices.read)
            assert bool(pattern.fullmatch(text)) is wanted


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rm", {"queries": ["a"]}),
        ("", {}),
        ("Web_Search", {"queries": ["a"]}),
        ("web_search", {}),
        ("web_search", {"queries": []}),
        ("web_search", {"queries": [1, None, {}, "  "]}),
        ("web_search", {"queries": {"a": "b"}}),
        ("crawl", {}),
        ("crawl", {"sources": [0, -1, True, 1.5, "x", 10**9]}),
        ("crawl", {"sources": {"1": 2}}),
        ("document_qa", {"source": 1}),
        ("document_qa", {"question": "why"}),
        ("document_qa", {"source": None, "question": "why"}),
        ("document_qa", {"source": 1, "question": ["why"]}),
    ],
)
def test_calls_that_make_no_sense(name: str, arguments: dict[str, Any]) -> None:
    assert read_tool_call(name, arguments) is None


def test_calls_are_trimmed() -> None:
    search = read_tool_call("web_search", {"queries": [f" q{n}\n " for n in range(9)] + ["q0"]})
    assert search == _search("q0", "q1", "q2", "q3", "q4")
    long = read_tool_call("web_search", {"query": "x" * 9_000})
    assert long == _search("x" * 500)
    crawl = read_tool_call("crawl", {"sources": ["[1]", "2", 2, "S3", 4], "urls": "http://a.example"})
    assert crawl == Action(tool="crawl", arguments={"sources": [1, 2, 3, 4], "urls": ["http://a.example"]})
    finish = read_tool_call("finish", {"answer": None, "sources": None})
    assert finish == READ_ANSWER
    named = read_tool_call("finish", {"answer": " ", "sources": [2]})
    assert named == Action(tool="read_answer", arguments={"sources": [2]})
    assert as_tool_call(named) == ("finish", {"answer": "", "sources": [2]}), "as the model called it"


@given(
    st.sampled_from(["web_search", "crawl", "document_qa", "finish", "x"]),
    st.dictionaries(
        st.sampled_from(["queries", "query", "sources", "urls", "source", "question", "answer"]),
        _json,
        max_size=5,
    ),
)
def test_native_calls_never_raise(name: str, arguments: dict[str, Any]) -> None:
    action = read_tool_call(name, arguments)
    if action is not None:
        _check(Step(actions=(action,)))


def test_tool_definitions_are_what_is_read() -> None:
    samples: dict[str, Any] = {
        "queries": ["a b"],
        "sources": [1],
        "urls": ["http://a.example"],
        "source": 1,
        "question": "why",
        "answer": "x",
        "ticket": 2,
        "query": "a b",
    }
    for tool in tool_definitions(recall=True):
        function: Any = tool["function"]
        properties = function["parameters"]["properties"]
        action = read_tool_call(function["name"], {name: samples[name] for name in properties})
        assert action is not None
        assert action.arguments == {name: samples[name] for name in properties}


@pytest.mark.parametrize(
    "text",
    [
        '<tools> {"name": "web_search", "arguments": {"queries": ["tides", "moon"]}} </tools>',
        # One brace too few, as small models write it.
        '<tools> {"type": "function", "function": {"name": "web_search", "arguments": {"queries": ["tides", "moon"]}} </tools>',
        'I search. ```json\n{"name": "web_search", "parameters": {"queries": ["tides", "moon"]}}\n```',
    ],
)
def test_a_tool_call_written_as_text(text: str) -> None:
    step = parse_step(text)
    assert step.actions == (Action(tool="web_search", arguments={"queries": ["tides", "moon"]}),)


@pytest.mark.parametrize(
    "text", ['{"name": "rm", "arguments": {"path": "x"}}', '{"name": "finish", "arguments": "now"}']
)
def test_other_calls_written_as_text_do_nothing(text: str) -> None:
    assert parse_step(text).actions == ()
