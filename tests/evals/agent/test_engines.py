"""Servers of a configuration: started together, watched, stopped; their variables reach them."""

import re
import sys
from pathlib import Path

import httpx
import pytest

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.agent.configurations import find_configuration
from agentinfer_lg.evals.agent.engines import EnginePair, TierEngine, agent_engines
from agentinfer_lg.serving.engine import launch
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server

PROGRAM = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(3)
        body = (os.environ.get("DEVICES", "none") + " " + os.environ.get("CHOSEN", "none")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Servers run a program that tells its variables."""
    (tmp_path / "config.json").write_text("{}")

    def command(options: ServeOptions, *, device: str) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", PROGRAM, str(options.port)], {"CHOSEN": "by us"}

    monkeypatch.setattr(launch, "build_command", command)
    monkeypatch.setattr(launch, "_require_vllm", lambda: None)
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))


def told(url: str) -> str:
    return httpx.get(f"{url}/variables", trust_env=False).text


def pair(folder: Path) -> EnginePair:
    return EnginePair(
        small=TierEngine(model=str(folder), environment={"DEVICES": "0"}),
        large=TierEngine(model=str(folder), environment={"DEVICES": "1,2", "CHOSEN": "by the user"}),
    )


def test_variables_reach_the_server_and_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICES", "all")
    options = ServeOptions(model=str(tmp_path), port=0, device="cpu")
    with Server(options, environment={"DEVICES": "3", "CHOSEN": "by the user"}) as server:
        server.wait_ready(60)
        assert told(server.base_url) == "3 by the user"
    with Server(options) as server:
        server.wait_ready(60)
        assert told(server.base_url) == "all by us"


def test_each_tier_has_its_server_and_its_variables(tmp_path: Path) -> None:
    with agent_engines(pair(tmp_path), find_configuration("+collab")) as engines:
        assert list(engines.urls) == ["small", "large"]
        assert told(engines.urls["small"]) == "0 by us"
        assert told(engines.urls["large"]) == "1,2 by the user"
        engines.check()
        urls = dict(engines.urls)
    for url in urls.values():
        with pytest.raises(httpx.ConnectError):
            told(url)


def test_the_baseline_has_one_server_and_its_end_is_noticed(tmp_path: Path) -> None:
    with agent_engines(pair(tmp_path), find_configuration("baseline")) as engines:
        assert list(engines.urls) == ["large"]
        engines.check()
        with pytest.raises(httpx.HTTPError):
            httpx.get(re.sub(r"/v1$", "/end", engines.urls["large"]), trust_env=False)
        with pytest.raises(EngineError, match="code 3"):
            engines.check()
