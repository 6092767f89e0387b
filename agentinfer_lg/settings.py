"""Process settings: endpoints, keys and folders, from the environment or a `.env` file.

Knobs of a single run (budgets, thresholds, switches) live in `agentinfer_lg.context`, which Studio shows; secrets
live here and never enter state, traces or logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import platformdirs
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentinfer_lg.errors import ConfigurationError

Tier = Literal["small", "large"]


class EndpointSettings(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid")

    base_url: str = ""
    """For example `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """Name of the model; empty: the first one the server lists."""
    api_key: SecretStr = SecretStr("")
    """Empty: no key is sent that would mean anything."""
    hints: Literal["auto", "on", "off"] = "auto"
    """Whether session hints (`agentinfer_lg.hints`) are sent; `auto`: only to vLLM."""
    data_parallel_size: int = Field(default=0, ge=0)
    """Data-parallel ranks of a vLLM server, to keep each session on one of them; 0: as the server says, 1: vLLM chooses."""
    tool_calling: Literal["auto", "native", "json"] = "auto"
    """Server-side tool calling, or one constrained JSON action per step; `auto`: try, then fall back."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds allowed for one model call."""
    max_retries: int = Field(default=2, ge=0)
    """Retries of a failed HTTP request."""

    @field_validator("base_url")
    @classmethod
    def _http_only(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if value and not value.startswith(("http://", "https://")):
            msg = f"base_url must start with http:// or https://, got {value!r}"
            raise ValueError(msg)
        return value

    @property
    def configured(self) -> bool:
        """Whether a base URL was given."""
        return bool(self.base_url)


class EnvironmentSettings(BaseSettings):
    """Settings read from `AGENTINFER_*` variables and `.env`; arguments win over both."""

    model_config = SettingsConfigDict(
        env_prefix="AGENTINFER_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
    )

    @classmethod
    def read(cls) -> Self:
        """Read the environment and `.env`.

        Raises:
            ConfigurationError: A variable is malformed; the message names it, and leaves out its value: it may be a key.
        """
        try:
            return cls()
        except ValidationError as error:
            items = error.errors(include_input=False)
            parts = "; ".join(f"{_variable(item['loc'])}: {item['msg']}" for item in items)
            msg = f"The settings cannot be used. {parts}. Correct the environment or the .env file."
            raise ConfigurationError(msg) from None


class Settings(EnvironmentSettings):
    """Endpoints, keys and folders of a process.

    A tier that is not configured uses the other tier's endpoint, so that one endpoint is enough.
    """

    small: EndpointSettings = EndpointSettings()
    """The model that does the work, `AGENTINFER_SMALL__BASE_URL`, `__MODEL`, `__API_KEY`."""
    large: EndpointSettings = EndpointSettings()
    """The model that plans and rescues, `AGENTINFER_LARGE__BASE_URL`, `__MODEL`, `__API_KEY`."""
    judge: EndpointSettings = EndpointSettings()
    """The model that grades answers of benchmarks, `AGENTINFER_JUDGE__BASE_URL`, `__MODEL`, `__API_KEY`; no tier stands in."""
    docs: Path | None = None
    """Folder of documents (txt, md, html, pdf) to research instead of the web."""
    tavily_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("AGENTINFER_TAVILY_API_KEY", "TAVILY_API_KEY")
    )
    """Key of the web search."""
    allow_private_addresses: bool = False
    """Let the crawler fetch from loopback and private networks (an intranet); off: refused."""
    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("agentinfer", appauthor=False))
    )
    """Where checkpoints and traces are kept."""

    def endpoint(self, tier: Tier) -> EndpointSettings:
        """Endpoint of `tier`, falling back to the other tier's.

        Raises:
            ConfigurationError: Neither tier has a base URL.
        """
        own, other = (self.small, self.large) if tier == "small" else (self.large, self.small)
        if own.configured:
            return own
        if other.configured:
            return other.model_copy(update={"model": own.model or other.model})
        msg = (
            "No model endpoint is configured. Set AGENTINFER_SMALL__BASE_URL (and AGENTINFER_LARGE__BASE_URL for the "
            "large tier), or pass --small-url and --large-url. `agentinfer serve MODEL` starts a local one."
        )
        raise ConfigurationError(msg)


def _variable(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if str(part).isidentifier()]
    name = "__".join(names).upper()
    return name if name.startswith(("AGENTINFER_", "TAVILY_")) else f"AGENTINFER_{name}"
