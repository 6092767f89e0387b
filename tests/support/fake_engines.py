"""Servers for an ablation that are there at once: fake endpoints in this process, with the counters of vLLM.

As a program, an ablation that a test can kill: `python -m support.fake_engines FOLDER CELL` in `tests` runs two
configurations, whose servers do not answer any more once the file CELL is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fake_openai import HOLD_SECONDS, Brain, FakeOpenAI, Reply

from agentinfer_lg.context import Context
from agentinfer_lg.evals.agent.ablation.run import Ablation, AblationOptions
from agentinfer_lg.evals.agent.closed_loop import Corpus
from agentinfer_lg.evals.agent.configurations import Configuration, find_configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, TierEngine
from agentinfer_lg.evals.datasets.question import Question

__all__ = ("PAIR", "FakeEngines", "small_ablation", "small_corpus")

PAIR = EnginePair(small=TierEngine(model="owner/small"), large=TierEngine(model="owner/large"))


class CountingEngine(FakeOpenAI):
    """Counts as vLLM does: each chat request reads 100 tokens and writes 10, of which 2 were drafted and accepted."""

    def series(self) -> str:
        count = len(self.chats)
        return (
            f'vllm:prompt_tokens_total{{engine="0"}} {100.0 * count}\n'
            f'vllm:generation_tokens_total{{engine="0"}} {10.0 * count}\n'
            f'vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {2.0 * count}\n'
        )


@dataclass(slots=True)
class FakeEngines:
    """Starts fake servers; remembers all of them."""

    on_chat: Callable[[str, str], None] = lambda configuration, prompt: None
    check: Callable[[], None] = lambda: None
    started: list[tuple[str, dict[str, CountingEngine]]] = field(default_factory=list)

    @contextmanager
    def __call__(self, pair: EnginePair, configuration: Configuration) -> Iterator[AgentEngines]:
        """Start what `configuration` uses."""
        with ExitStack() as stack:
            servers = {
                tier: stack.enter_context(CountingEngine(self._script(configuration), models=[tier]))
                for tier in configuration.tiers
            }
            self.started.append((configuration.name, dict(servers)))
            urls = {tier: server.url for tier, server in servers.items()}
            yield AgentEngines(urls=urls, check=self.check)

    def _script(self, configuration: Configuration) -> Callable[[dict[str, Any], int], Reply]:
        brain = Brain()

        def answer(request: dict[str, Any], index: int) -> Reply:
            self.on_chat(configuration.name, str(request["messages"]))
            return brain(request, index)

        return answer


def small_corpus(folder: Path, *, questions: int, name: str = "made-up") -> Corpus:
    """Questions about towns, each with its document."""
    docs = folder / name
    docs.mkdir(parents=True, exist_ok=True)
    for number in range(questions):
        text = f"# Town {number}\n\nThe mayor of the town {name}{number} is called Ada{number}.\n"
        (docs / f"{number}.md").write_text(text, encoding="utf-8")
    asked = [
        Question(
            id=f"{name}-{number}",
            question=f"Who is the mayor of the town {name}{number}?",
            answer=f"Ada{number}",
            evidence=(f"Town {number}",),
        )
        for number in range(questions)
    ]
    return Corpus(name=name, questions=asked, docs=docs)


def small_ablation(
    folder: Path,
    engines: FakeEngines,
    *,
    configurations: Sequence[str] = ("one-shot", "baseline"),
    blocks: int = 1,
    questions: int = 40,
    **more: Any,
) -> Ablation:
    """An ablation of two configurations with 1 and 2 questions at the same time, in `folder`."""
    options = AblationOptions(
        engines=PAIR,
        configurations=tuple(map(find_configuration, configurations)),
        **{
            "concurrency": (1, 2),
            "min_questions": 2,
            "blocks": blocks,
            "tool_seconds": 0.0,
            "context": Context(report="brief", max_seekers=1, max_turns=3),
            **more,
        },
    )
    corpus = small_corpus(folder / "docs", questions=questions)
    return Ablation(corpora=[corpus], options=options, folder=folder / "run", start_engines=engines)


def main() -> None:
    """Run until killed."""
    folder, last = Path(sys.argv[1]), sys.argv[2]

    def hang(configuration: str, prompt: str) -> None:
        if (folder / "run" / "cells" / last).exists():
            time.sleep(HOLD_SECONDS)

    small_ablation(folder, FakeEngines(on_chat=hang)).run()


if __name__ == "__main__":
    main()
