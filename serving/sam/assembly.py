"""The drafter of one engine, put together from its settings: sources, memory on disk, compiled kernels."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentinfer_lg.serving.sam.config import SamConfig

if TYPE_CHECKING:
    from agentinfer_lg.serving.sam.drafter import Drafter
    from agentinfer_lg.serving.sam.memory import SessionMemory

__all__ = ("make_drafter",)


def make_drafter(config: SamConfig, model: Any) -> Drafter:
    """Return a drafter that is ready for requests; finished sessions are read in the background.

    Args:
        config: Settings.
        model: vLLM's model configuration.
    """
    _choose_kernel_cache()
    # Not at the top: numba must not be imported before vLLM has made its worker.
    from agentinfer_lg.serving.sam.drafter import Drafter, DrafterOptions

    options = DrafterOptions(
        mode=config.mode,
        max_draft=config.max_draft,
        marginal_cost=config.marginal_cost,
        own=config.own,
        history=config.history,
        top_k=config.top_k,
    )
    return Drafter(options, memory=_open_memory(config, model))


def _open_memory(config: SamConfig, model: Any) -> SessionMemory | None:
    if config.memory == "off" or not config.history:
        return None
    from agentinfer_lg.serving.sam.memory import SqliteMemory, default_folder, fingerprint

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
