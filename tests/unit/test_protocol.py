"""The protocol: whatever a model writes becomes a checked step, and nothing raises."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.protocol import MAX_QUERIES, TOOLS, Action, Step, action_schema, parse_step, read_tool_call

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
                assert isinstance(arguments["answer"], str)
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
            Action(tool="finish", arguments={"answer": "", "sources": []}),
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
        '{"thought": "t", "action": "read", "source": ' + "9" * 10_000 + "}",
        "a" * 1_000_000,
    ],
    ids=["braces", "objects", "lists", "long", "escapes", "keys", "digits", "letters"],
)
def test_huge_and_deep(text: str) -> None:
    _check(parse_step(text))


def test_half_a_character_never_reaches_the_wire() -> None:
    # json.loads lets a lone \ud83d through; no server and no checkpoint takes it.
    step = parse_step('{"thought": "a\\ud83d", "action": "search", "query": "\\ude00 lamp"}')
    _check(step)
    assert "lamp" in step.actions[0].arguments["queries"][0]
    call = read_tool_call("web_search", {"queries": ["lamp \udc80"]})
    assert call is not None
    json.dumps(call.arguments, ensure_ascii=False).encode()


def _options(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema.get("anyOf", [schema])


def _names(schema: dict[str, Any]) -> list[str]:
    return [option["properties"]["action"]["const"] for option in _options(schema)]


@pytest.mark.parametrize(
    ("known", "unread", "names"),
    [
        (0, [], ["search"]),
        (2, [], ["search", "answer"]),
        (2, [2], ["search", "read", "answer"]),
    ],
)
def test_only_possible_actions_are_offered(known: int, unread: list[int], names: list[str]) -> None:
    assert _names(action_schema(known=known, unread=unread)) == names


@given(st.integers(0, 40), st.data())
def test_every_option_of_the_schema_parses_back(known: int, data: st.DataObject) -> None:
    unread = data.draw(st.lists(st.integers(1, known), unique=True).map(sorted)) if known else []
    schema: dict[str, Any] = action_schema(known=known, unread=unread)
    tools = {"search": "web_search", "read": "crawl", "answer": "finish"}
    for option in _options(schema):
        assert option["additionalProperties"] is False
        assert option["required"] == list(option["properties"])
        assert option["required"][0] == "thought", "a model that thinks first chooses better"
        source = option["properties"].get("source")
        for number in source["enum"] if source else [None]:
            values = {"thought": "t", "query": "who is it", "source": number}
            values["action"] = option["properties"]["action"]["const"]
            step = parse_step(json.dumps({name: values[name] for name in option["properties"]}))
            assert [action.tool for action in step.actions] == [tools[values["action"]]]
            if number:
                assert step.actions[0].arguments["sources"] == [number]
                assert number in unread
                assert len(source["enum"]) <= 10


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
    assert finish == Action(tool="finish", arguments={"answer": "", "sources": []})


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
    }
    for tool in TOOLS:
        function: Any = tool["function"]
        properties = function["parameters"]["properties"]
        action = read_tool_call(function["name"], {name: samples[name] for name in properties})
        assert action is not None
        assert action.arguments == {name: samples[name] for name in properties}
