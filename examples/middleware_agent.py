"""A LangChain agent with two models and a short context: the middlewares of agentinfer-lg in `create_agent`.

The agent reads documents of the folder `examples/corpus`. A small model does the work, a large one steps in while its
Progress Checks fail, and old documents are distilled in the background. One endpoint is enough to try it:

    pip install 'agentinfer-lg[middleware]'
    python examples/middleware_agent.py --url http://127.0.0.1:8000/v1 "Which lighthouse of the Orrin Isles was moved?"

Without `--url` the endpoints are those of AGENTINFER_SMALL__BASE_URL and AGENTINFER_LARGE__BASE_URL.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import httpx
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agentinfer_lg import EndpointSettings, Settings
from agentinfer_lg.middleware import DistillationMiddleware, EscalationMiddleware

CORPUS = Path(__file__).parent / "corpus"


def list_documents() -> str:
    """List the names of the documents."""
    return "\n".join(
        sorted(path.name for path in CORPUS.iterdir() if path.suffix in (".md", ".txt", ".html"))
    )


def read_document(name: str) -> str:
    """Read one document by its name."""
    if name not in list_documents().splitlines():
        return f"There is no document {name!r}."
    return (CORPUS / name).read_text(encoding="utf-8")


def chat_model(endpoint: EndpointSettings) -> ChatOpenAI:
    """Return the model of an endpoint; without a name, the first one that the server lists."""
    key = endpoint.api_key.get_secret_value() or "none"
    headers = {"Authorization": f"Bearer {key}"}
    name = endpoint.model or httpx.get(f"{endpoint.base_url}/models", headers=headers).json()["data"][0]["id"]
    return ChatOpenAI(model=name, base_url=endpoint.base_url, api_key=SecretStr(key), temperature=0.0)


def show(event: dict[str, Any]) -> None:
    """Print one progress event of the middlewares."""
    details = {key: value for key, value in event.items() if key not in ("event", "agent", "turn") and value}
    print(f"  step {event['turn']}: {event['event']} {details}")


def main() -> None:
    """Ask the agent one question."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question")
    parser.add_argument("--url", help="one OpenAI-compatible endpoint for both models")
    arguments = parser.parse_args()
    settings = Settings(small=EndpointSettings(base_url=arguments.url)) if arguments.url else Settings()
    small, large = chat_model(settings.endpoint("small")), chat_model(settings.endpoint("large"))
    agent = create_agent(
        small,
        [list_documents, read_document],
        system_prompt="Answer from the documents. Read what you need, one or two documents at a time.",
        middleware=[
            EscalationMiddleware(large=large),
            DistillationMiddleware(distiller=small, compress_after_tokens=1500),
        ],
    )
    state: dict[str, Any] = {}
    question = {"messages": [{"role": "user", "content": arguments.question}]}
    for kind, value in agent.stream(question, stream_mode=["custom", "values"]):
        if kind == "custom":
            show(value)
        else:
            state = value
    print(state["messages"][-1].text)


if __name__ == "__main__":
    main()
