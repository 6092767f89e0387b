"""The drafter of one engine, put together from its settings: sources, memory on disk, compiled kernels."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.config import SamConfig

if TYPE_CHECKING:
    from agentinfer_lg.serving.sam.draft.drafter import Drafter
    from agentinfer_lg.serving.sam.draft.stats import DrafterStats
    from agentinfer_lg.serving.sam.index.memory import SessionMemory
    from agentinfer_lg.serving.sam.index.session_index import SessionIndex

_EMBEDDINGS_KEY = "AGENTINFER_SAM_EMBEDDINGS_KEY"


def import_drafter() -> None:
    """Import the drafter and with it numba; not before vLLM has made its worker."""
    _choose_kernel_cache()
    importlib.import_module("agentinfer_lg.serving.sam.draft.drafter")


def make_drafter(config: SamConfig, model: Any) -> Drafter:
    """Return a drafter with compiled kernels; finished sessions are read in the background.

    Kernels are compiled on the first start after an installation, which takes seconds, and loaded afterwards.

    Args:
        config: Settings.
        model: vLLM's model configuration.
    """
    from agentinfer_lg.serving.sam.draft.drafter import Drafter
    from agentinfer_lg.serving.sam.draft.options import DrafterOptions

    options = DrafterOptions.of(config, memory_tokens=config.memory_tokens)
    _warm_up(Drafter(options, background=False))
    return Drafter(options, memory=_open_memory(config, model), make_index=_index_maker(config, model))


def _warm_up(drafter: Drafter) -> None:
    """Call everything that is compiled, with a drafter that is thrown away."""
    text = np.arange(64, dtype=np.int32) % 7
    for final in (False, True, False):
        drafter.start("warm", text, hints=SessionHints(final=final))
        for tokens in ([1, 2], [3]):
            drafter.step(["warm"], [tokens])
        drafter.observe(seconds=0.01, requests=1, tokens=2, drafted=1, context=64)
        drafter.finish("warm")
    drafter.close()


def drafter_figures(stats: DrafterStats) -> dict[str, float]:
    """Return counters and sizes by the names of `agentinfer_lg.serving.sam.vllm.series`, labels after a colon."""
    drafted, accepted = stats.drafted, stats.accepted
    figures: dict[str, float] = {
        "drafts": stats.drafts,
        "emitted_tokens": stats.emitted,
        "decode_passes": stats.passes,
        "unready_passes": stats.unready,
        "failed_builds": stats.failures,
        "built_tokens": stats.built_tokens,
        "build_seconds": stats.build_seconds,
        "tokens_per_pass": stats.emitted / stats.passes if stats.passes else 0.0,
        "hit_rate": accepted / drafted if drafted else 0.0,
        "build_backlog_jobs": stats.backlog,
        "build_backlog_tokens": stats.backlog_tokens,
        "live_sessions": stats.live_sessions,
        "live_tokens": stats.live_tokens,
        "history_tokens": stats.history_tokens,
        "memory_bytes": stats.bytes,
    }
    figures |= {f"draft_tokens:{name}": source.drafted for name, source in stats.sources.items()}
    figures |= {f"accepted_tokens:{name}": source.accepted for name, source in stats.sources.items()}
    return figures | {f"marginal_cost:{batch}": cost for batch, cost in stats.marginal_cost.items()}


def _index_maker(config: SamConfig, model: Any) -> Callable[[], SessionIndex]:
    from agentinfer_lg.serving.sam.index.embedding_index import EmbeddingIndex
    from agentinfer_lg.serving.sam.index.min_hash_index import MinHashIndex

    if not config.embeddings_url or not config.top_k:
        return MinHashIndex
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(getattr(model, "tokenizer", None) or model.model)
    return lambda: EmbeddingIndex(
        config.embeddings_url,
        config.embeddings_model,
        decode=lambda tokens: str(tokenizer.decode(tokens.tolist())),
        api_key=os.environ.get(_EMBEDDINGS_KEY, ""),
    )


def _open_memory(config: SamConfig, model: Any) -> SessionMemory | None:
    if config.memory == "off" or not config.history:
        return None
    from agentinfer_lg.serving.sam.index.memory import SqliteMemory, default_folder, fingerprint

    folder = Path(config.memory).expanduser() if config.memory else default_folder()
    vocab_size = int(model.get_vocab_size())
    tokenizer = Path(str(getattr(model, "tokenizer", None) or model.model))
    revisions = [str(getattr(model, name, None) or "") for name in ("revision", "tokenizer_revision")]
    identity = fingerprint(
        str(model.model),
        vocab_size,
        tokenizer if tokenizer.is_dir() else None,
        revision=" ".join(revisions).strip(),
    )
    return SqliteMemory(
        folder,
        fingerprint=identity,
        max_tokens=config.memory_tokens,
        max_age_days=config.memory_days,
        vocab_size=vocab_size,
    )


def _choose_kernel_cache() -> None:
    """Give numba a folder for compiled kernels where it would find none.

    It writes beside the source or else below the home folder, and raises if neither can be written.
    """
    beside, home = Path(__file__).resolve().parent, Path.home()
    if "NUMBA_CACHE_DIR" not in os.environ and not any(os.access(place, os.W_OK) for place in (beside, home)):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="agentinfer-kernels-")
