"""The doctor and the probe behind it: each trouble is told apart and comes with what to do."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from support.fake_openai import FakeOpenAI, Faults, Reply

from agentinfer_lg.cli import main
from agentinfer_lg.cli.doctor import diagnose
from agentinfer_lg.errors import ConfigurationError, EndpointError
from agentinfer_lg.llm.connection import public_url
from agentinfer_lg.llm.probe import probe_endpoint
from agentinfer_lg.serving.engine.findings import Finding
from agentinfer_lg.settings import EndpointSettings, Settings

KEY = "sk-very-secret"


class _Server:
    """A loopback server with fixed answers: path to status and body."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path, (404, {"error": {"message": "no such route"}}))
                text = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "_Server":
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _endpoint(url: str, **more: Any) -> EndpointSettings:
    return EndpointSettings(base_url=url, api_key=SecretStr(KEY), **more)


async def _refusal(endpoint: EndpointSettings, *, timeout: float = 5.0) -> str:
    with pytest.raises(EndpointError) as caught:
        await probe_endpoint(endpoint, timeout=timeout)
    assert KEY not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def _card(name: str, owner: str = "someone") -> dict[str, Any]:
    return {"id": name, "object": "model", "owned_by": owner}


# The probe


async def test_vllm_is_recognised_and_its_model_taken(server: FakeOpenAI) -> None:
    profile = await probe_endpoint(_endpoint(server.url))
    assert (profile.model, profile.vllm, profile.max_model_len) == ("fake-small", True, 131_072)
    assert profile.models == ("fake-small", "fake-large")
    assert (await probe_endpoint(_endpoint(server.url, model="fake-large"))).model == "fake-large"


async def test_other_servers_are_not_taken_for_vllm() -> None:
    with FakeOpenAI(owned_by="library") as server:
        profile = await probe_endpoint(_endpoint(server.url))
    assert (profile.vllm, profile.max_model_len) == (False, None)


async def test_vllm_behind_a_proxy_that_hides_the_owner() -> None:
    answers = {"/v1/models": (200, {"data": [{"id": "m"}]}), "/version": (200, {"version": "0.32.0"})}
    with _Server(answers) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1"))).vllm is True


async def test_dead_endpoints_are_told_apart() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert "nothing listens there" in await _refusal(_endpoint(f"http://127.0.0.1:{port}/v1"))
        bound.listen()
        silent = _endpoint(f"http://127.0.0.1:{port}/v1")
        assert "did not answer within 0.2 s" in await _refusal(silent, timeout=0.2)


async def test_unknown_host_and_unusable_url() -> None:
    assert "cannot be resolved" in await _refusal(_endpoint("http://no-such-host.invalid/v1"))
    for url in ("http://[oops/v1", "http:///v1", "http://host:port/v1"):
        with pytest.raises(ConfigurationError, match="not a usable base URL"):
            await probe_endpoint(_endpoint(url))
    with pytest.raises(ConfigurationError, match="AGENTINFER_SMALL__BASE_URL"):
        await probe_endpoint(EndpointSettings())


async def test_keys() -> None:
    with FakeOpenAI(faults=Faults(api_key="sk-right")) as server:
        assert "refuses the API key (HTTP 401)" in await _refusal(_endpoint(server.url))
        keyless = EndpointSettings(base_url=server.url)
        assert "wants an API key" in await _refusal(keyless)


async def test_a_model_that_vllm_does_not_list(server: FakeOpenAI) -> None:
    refused = await _refusal(_endpoint(server.url, model="other"))
    assert "does not serve the model 'other'" in refused
    assert "fake-small, fake-large" in refused
    assert server.chats == []


async def test_an_alias_that_other_servers_do_not_list_is_tried() -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    listed = {"data": [_card("qwen:latest")]}
    missing = {"error": {"message": "model 'qwen' not found"}}
    with _Server({"/v1/models": (200, listed), "/v1/chat/completions": (200, chat)}) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1", model="alias"))).model == "alias"
    for status in (400, 404):
        answers = {"/v1/models": (200, listed), "/v1/chat/completions": (status, missing)}
        with _Server(answers) as server:
            assert "It lists: qwen:latest." in await _refusal(_endpoint(f"{server.root}/v1", model="other"))


@pytest.mark.parametrize("name", ["qwen", "Qwen", "QWEN:latest"])
async def test_a_name_finds_its_latest_tag(name: str) -> None:
    with _Server({"/v1/models": (200, {"data": [_card("qwen:latest"), _card("qwen-embed")]})}) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1", model=name))).model == "qwen:latest"


@pytest.mark.parametrize(
    "first",
    [
        _card("nomic-embed-text"),
        _card("BAAI/bge-reranker-v2-m3"),
        {"id": "m1", "type": "embedding"},
        {"id": "mxbai", "task": "embeddings"},
        _card("text-embedding-3-small"),
        _card("whisper-1"),
    ],
)
async def test_a_model_that_does_not_chat_is_never_chosen(first: dict[str, Any]) -> None:
    with _Server({"/v1/models": (200, {"data": [first, _card("llama3")]})}) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1"))).model == "llama3"
    with _Server({"/v1/models": (200, {"data": [first]})}) as server:
        assert "no model that chats" in await _refusal(_endpoint(f"{server.root}/v1"))


@pytest.mark.parametrize(
    ("card", "other", "window"),
    [
        ({"id": "m", "context_length": 8192}, {}, 8192),
        ({"id": "m", "meta": {"n_ctx": 2048, "n_ctx_train": 131_072}}, {}, 2048),
        ({"id": "m", "loaded_context_length": 4096, "max_context_length": 32_768}, {}, 4096),
        (
            {"id": "m", "owned_by": "llamacpp"},
            {"/props": {"default_generation_settings": {"n_ctx": 512}}},
            512,
        ),
        (
            {"id": "m", "owned_by": "library"},
            {"/api/ps": {"models": [{"name": "m", "context_length": 4096}]}},
            4096,
        ),
        ({"id": "m", "context_length": "many"}, {}, None),
    ],
)
async def test_each_server_tells_its_context_in_its_own_way(
    card: dict[str, Any], other: dict[str, Any], window: int | None
) -> None:
    answers = {"/v1/models": (200, {"data": [card]}), **{path: (200, body) for path, body in other.items()}}
    with _Server(answers) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1"))).max_model_len == window


@pytest.mark.parametrize("status", [404, 500, 503, 401])
async def test_a_list_that_fails_is_no_obstacle_if_the_model_is_named(status: int) -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    answers = {"/v1/models": (status, "no"), "/v1/chat/completions": (200, chat)}
    with _Server(answers) as server:
        profile = await probe_endpoint(_endpoint(f"{server.root}/v1", model="m"))
        assert (profile.model, profile.models) == ("m", ())
        assert f"HTTP {status}" in profile.note
        if status == 500:
            assert "SMALL__MODEL" in await _refusal(_endpoint(f"{server.root}/v1"))


async def test_a_query_of_the_address_is_kept() -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    answers = {
        "/o/models?api-version=1": (200, {"data": [_card("m")]}),
        "/o/chat/completions?api-version=1": (200, chat),
    }
    with _Server(answers) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/o/?api-version=1"))).model == "m"


@pytest.mark.parametrize(
    ("answers", "path", "words"),
    [
        ({}, "/v1", "does not list its models as an OpenAI-compatible one (HTTP 404"),
        ({"/v1/models": (200, "<html>welcome</html>")}, "/v1", "does not list its models"),
        ({"/v1/models": (500, "broken")}, "/v1", "fails to list its models (HTTP 500)"),
        ({"/v1/models": (200, {"data": []})}, "/v1", "lists no models"),
    ],
)
async def test_servers_that_are_something_else(answers: Any, path: str, words: str) -> None:
    with _Server(answers) as server:
        assert words in await _refusal(_endpoint(server.root + path))


async def test_a_base_without_its_version_is_completed() -> None:
    with _Server({"/v1/models": (200, {"data": [_card("m")]})}) as server:
        profile = await probe_endpoint(_endpoint(server.root))
    assert (profile.model, profile.base_url) == ("m", f"{server.root}/v1")


async def test_a_server_without_a_list_serves_the_model_that_is_named() -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    with _Server({"/v1/chat/completions": (200, chat)}) as server:
        assert (await probe_endpoint(_endpoint(f"{server.root}/v1", model="m"))).models == ()


@given(st.text())
def test_a_shown_url_holds_no_password(tail: str) -> None:
    assert "hunter2" not in public_url(f"https://user:hunter2@host/{tail}")
    assert "hunter2" not in public_url(f"https://host/v1?key=hunter2{tail}")


async def test_what_servers_say_is_clipped_and_free_of_the_key(tmp_path: Path) -> None:
    said = {"error": {"message": f"bad \x1b[2J key {KEY} " + "x" * 500}}
    listed = {"data": [_card("m")]}
    with _Server({"/v1/models": (200, listed), "/v1/chat/completions": (418, said)}) as server:
        found = await _doctor(_settings(tmp_path, small=_endpoint(f"{server.root}/v1")))
    completion = found["small completion"]
    assert completion.verdict == "FAIL"
    assert KEY not in completion.detail
    assert "\x1b" not in completion.detail
    assert len(completion.detail) < 500


# The doctor


def _settings(tmp_path: Path, **more: Any) -> Settings:
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "a.txt").write_text("A lamp.")
    return Settings(**{"_env_file": None, "home": tmp_path / "home", "docs": tmp_path / "docs", **more})


async def _doctor(settings: Settings) -> dict[str, Finding]:
    return {diagnosis.subject: diagnosis async for diagnosis in diagnose(settings, timeout=5.0)}


async def test_all_is_well(server: FakeOpenAI, tmp_path: Path) -> None:
    found = await _doctor(_settings(tmp_path, small=_endpoint(server.url)))
    assert {d.subject for d in found.values() if d.verdict == "FAIL"} == set()
    assert "fake-small" in found["small endpoint"].detail
    assert found["large endpoint"].detail == "the same as the small tier's"
    assert found["small constrained"].verdict == "ok"
    assert "1 documents" in found["search"].detail
    assert found["saved runs"].verdict == "ok"
    assert "GB free" in found["disk"].detail
    assert "estimated" not in found["small tokenizer"].detail


async def test_troubles_and_their_remedies(tmp_path: Path) -> None:
    rejects = frozenset({"tools", "response_format", "structured_outputs"})
    with FakeOpenAI(faults=Faults(rejects=rejects), max_model_len=1024) as server:
        found = await _doctor(_settings(tmp_path, small=_endpoint(server.url)))
    assert found["small tool calling"].verdict == "warn"
    assert "--enable-auto-tool-choice" in found["small tool calling"].detail
    assert found["small constrained"].verdict == "warn"
    assert found["small context"].verdict == "warn"
    assert "2,048" in found["small context"].detail


async def test_insisting_on_native_tools_makes_their_lack_a_failure(tmp_path: Path) -> None:
    with FakeOpenAI(faults=Faults(rejects=frozenset({"tools"}))) as server:
        found = await _doctor(_settings(tmp_path, small=_endpoint(server.url, tool_calling="native")))
    assert found["small tool calling"].verdict == "FAIL"
    assert "TOOL_CALLING=auto" in found["small tool calling"].detail


async def test_usage_without_cached_tokens(tmp_path: Path) -> None:
    chat = {
        "choices": [{"message": {"role": "assistant", "content": "x"}}],
        "usage": {"prompt_tokens": 9, "prompt_tokens_details": None},
    }
    models = {"data": [_card("m", "vllm") | {"max_model_len": 4096}]}
    with _Server({"/v1/models": (200, models), "/v1/chat/completions": (200, chat)}) as server:
        found = await _doctor(_settings(tmp_path, large=_endpoint(f"{server.root}/v1")))
    assert "--enable-prompt-tokens-details" in found["small prefix cache"].detail
    assert "estimated" in found["small tokenizer"].detail
    assert "not obeyed" in found["small constrained"].detail


async def test_a_completion_that_fails(tmp_path: Path) -> None:
    with FakeOpenAI(lambda request, index: Reply(status=500, text="out of order")) as server:
        found = await _doctor(_settings(tmp_path, small=_endpoint(server.url)))
    assert found["small completion"].verdict == "FAIL"
    assert "out of order" in found["small completion"].detail
    assert found["large endpoint"].verdict == "FAIL"


async def test_hints_forced_on_a_server_that_may_refuse_them(tmp_path: Path) -> None:
    with FakeOpenAI(owned_by="library") as server:
        found = await _doctor(_settings(tmp_path, small=_endpoint(server.url, hints="on")))
    assert found["small hints"].verdict == "warn"


async def test_nothing_is_set_up(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    found = await _doctor(_settings(tmp_path, docs=None))
    assert "AGENTINFER_SMALL__BASE_URL" in found["endpoints"].detail
    assert "TAVILY_API_KEY" in found["search"].detail
    assert "AGENTINFER_HOME" in found["saved runs"].detail
    assert {found[name].verdict for name in ("endpoints", "search", "saved runs")} == {"FAIL"}


async def test_an_empty_folder(server: FakeOpenAI, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = await _doctor(_settings(tmp_path, docs=tmp_path / "empty", small=_endpoint(server.url)))
    assert found["search"].verdict == "FAIL"


@pytest.mark.parametrize("alive", [True, False])
def test_exit_code_and_lines(
    alive: bool,
    server: FakeOpenAI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGENTINFER_SMALL__API_KEY", KEY)
    url = server.url if alive else "http://127.0.0.1:1/v1"
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--docs", "docs", "--small-url", url])
    assert stop.value.code == (0 if alive else 1)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "FAIL") for line in lines)
    assert any(line.startswith("FAIL") for line in lines) is not alive
    assert KEY not in shown.out + shown.err
