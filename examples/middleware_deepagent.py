"""A deep agent with two models and a short context: the middlewares of agentinfer-lg in `create_deep_agent`.

Like `middleware_agent.py`, with the tools, the files and the sub-agents of deepagents around it:

    pip install 'agentinfer-lg[middleware]' deepagents
    python examples/middleware_deepagent.py --url http://127.0.0.1:8000/v1 "Which lighthouse of the Orrin Isles was moved?"

Without `--url` the endpoints are those of AGENTINFER_SMALL__BASE_URL and AGENTINFER_LARGE__BASE_URL.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from deepagents import HarnessProfile, create_deep_agent, register_harness_profile
from middleware_agent import chat_model, list_documents, read_document, show

from agentinfer_lg import EndpointSettings, Settings
from agentinfer_lg.middleware import DistillationMiddleware, EscalationMiddleware

# Its own summarization and the distillation get along; this leaves all of it to the distillation.
register_harness_profile("openai", HarnessProfile(excluded_middleware=frozenset({"SummarizationMiddleware"})))


async def ask(question: str, settings: Settings) -> str:
    """Ask a deep agent one question."""
    small, large = chat_model(settings.endpoint("small")), chat_model(settings.endpoint("large"))
    agent = create_deep_agent(
        model=small,
        tools=[list_documents, read_document],
        system_prompt="Answer from the documents. Read what you need, one or two documents at a time.",
        middleware=[EscalationMiddleware(large=large), DistillationMiddleware(distiller=small)],
    )
    state: dict[str, Any] = {}
    messages = {"messages": [{"role": "user", "content": question}]}
    async for kind, value in agent.astream(messages, stream_mode=["custom", "values"]):
        if kind == "custom":
            show(value)
        else:
            state = value
    return str(state["messages"][-1].text)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question")
    parser.add_argument("--url", help="one OpenAI-compatible endpoint for both models")
    arguments = parser.parse_args()
    settings = Settings(small=EndpointSettings(base_url=arguments.url)) if arguments.url else Settings()
    print(asyncio.run(ask(arguments.question, settings)))


if __name__ == "__main__":
    main()
