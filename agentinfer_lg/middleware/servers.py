"""What is known of the servers behind chat models; each is asked once."""

from __future__ import annotations

import time
from typing import Literal

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr, ValidationError

from agentinfer_lg.errors import AgentInferError
from agentinfer_lg.llm.probe import EndpointProfile, probe_endpoint
from agentinfer_lg.middleware.requests import base_url
from agentinfer_lg.settings import EndpointSettings

Hints = Literal["auto", "on", "off"]
"""Whether session hints (`agentinfer_lg.hints`) are sent; `auto`: only to vLLM."""

_TIMEOUT = 5.0
_ASK_AGAIN = 60.0


class Servers:
    """Profiles of OpenAI-compatible servers, by where they are and the model's name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], EndpointProfile] = {}
        self._failed: dict[tuple[str, str], float] = {}

    async def profile(self, model: BaseChatModel) -> EndpointProfile | None:
        """Return what the server of `model` says about itself; None for other models, and where it does not answer."""
        url, name = base_url(model), str(getattr(model, "model_name", ""))
        if not url:
            return None
        key = url, name
        if key not in self._known and time.monotonic() - self._failed.get(key, -_ASK_AGAIN) >= _ASK_AGAIN:
            try:
                endpoint = EndpointSettings(base_url=url, model=name, api_key=_secret(model))
                self._known[key] = await probe_endpoint(endpoint, timeout=_TIMEOUT)
            except (AgentInferError, ValidationError):  # the agent's own call says what is wrong
                self._failed[key] = time.monotonic()
        return self._known.get(key)

    async def wants_hints(self, model: BaseChatModel, hints: Hints) -> bool:
        """Whether session hints are to be sent with calls of `model`."""
        if hints == "auto":
            profile = await self.profile(model)
            return profile is not None and profile.vllm
        return hints == "on"


def _secret(model: BaseChatModel) -> SecretStr:
    key = getattr(model, "openai_api_key", None)
    return key if isinstance(key, SecretStr) else SecretStr("")
