"""Process settings: endpoints, keys and folders, from the environment or a `.env` file.

Knobs of a single run (budgets, thresholds, switches) live in `agentinfer_lg.context`, which Studio shows; secrets
live here and never enter state, traces or logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import platformdirs
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.hints import AgentRole

Tier = Literal["small", "large"]
Thinking = Literal["auto", "on", "off"]
"""Whether a reasoning model thinks: `auto` asks short calls to do without, `on` never asks, `off` always asks."""

PROVIDERS: Final = frozenset(
    [
        "anthropic",
        "anthropic_bedrock",
        "azure_ai",
        "azure_openai",
        "baseten",
        "bedrock",
        "bedrock_converse",
        "bedrock_mantle_anthropic",
        "bedrock_mantle_openai",
        "cohere",
        "deepseek",
        "fireworks",
        "google_anthropic_vertex",
        "google_genai",
        "google_vertexai",
        "groq",
        "huggingface",
        "ibm",
        "litellm",
        "meta",
        "mistralai",
        "nvidia",
        "ollama",
        "openai",
        "openrouter",
        "perplexity",
        "together",
        "upstage",
        "xai",
    ]
)
"""Providers of LangChain's `init_chat_model`, which `provider:name` may name."""


class EndpointSettings(BaseModel):
    """One model: at an OpenAI-compatible endpoint, or of a provider that LangChain knows."""

    model_config = ConfigDict(extra="forbid")

    base_url: str = ""
    """For example `http://127.0.0.1:8000/v1`. A query is kept: `https://NAME.openai.azure.com/openai/v1?api-version=...`."""
    model: str = ""
    """Name of the model; empty: the first chat model that the server lists. `provider:name`: through `init_chat_model`."""
    api_key: SecretStr = SecretStr("")
    """Empty: no key is sent that would mean anything."""
    headers: dict[str, SecretStr] = {}
    """Sent with every request, for gateways that want more than a key."""
    extra_body: dict[str, Any] = {}
    """Fields added to the body of every request; they win over the agent's own."""
    role_body: dict[AgentRole, dict[str, Any]] = {}
    """The same for calls of one role: `{"progress": {"reasoning_effort": "none"}}`; they win over `extra_body`."""
    model_kwargs: dict[str, Any] = {}
    """Keyword arguments of the chat model of a provider; no endpoint uses them."""
    thinking: Thinking = "auto"
    """Whether a reasoning model thinks before it answers."""
    ca_file: Path | None = None
    """PEM file of a private certificate authority; the system's and the public ones hold too."""
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

    start_timeout: float = Field(default=300.0, gt=0)
    """Seconds that a server may take to load its model before the first answer."""

    @field_validator("base_url")
    @classmethod
    def _http_only(cls, value: str) -> str:
        value = value.strip()
        if not value:
            return value
        if not value.startswith(("http://", "https://")):
            msg = "base_url must start with http:// or https://"
            raise ValueError(msg)
        try:
            parts = urlsplit(value)
        except ValueError:  # an unclosed bracket; the first request says so
            return value.rstrip("/")
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), parts.query, ""))

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value().strip()
        if not all("!" <= character <= "~" for character in key):
            msg = "the key has characters that a header cannot hold; copy it again, without line breaks and typographic quotes"
            raise ValueError(msg)
        return SecretStr(key)

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            text = secret.get_secret_value()
            if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
                msg = "a header has a name that is not one; use letters, digits and hyphens"
                raise ValueError(msg)
            if not text.isascii() or not text.isprintable():
                msg = f"the header {name} has characters that a header cannot hold"
                raise ValueError(msg)
        return value

    @property
    def provider(self) -> str:
        """Provider that LangChain is to make the model of; empty where an endpoint is meant."""
        provider, colon, name = self.model.partition(":")
        return provider if colon and name and not self.base_url and provider in PROVIDERS else ""

    @property
    def configured(self) -> bool:
        """Whether it says where the model is."""
        return bool(self.base_url or self.provider)


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

    def with_models(self, *, small: str = "", large: str = "") -> Self:
        """Return these settings with other models.

        Args:
            small: Name of the small model, or `provider:name`; empty: as it is.
            large: The same of the large one.
        """
        named = {tier: name for tier, name in (("small", small), ("large", large)) if name}
        return self.model_copy(
            update={tier: _named(getattr(self, tier), name) for tier, name in named.items()}
        )

    def endpoint(self, tier: Tier) -> EndpointSettings:
        """Endpoint of `tier`, falling back to the other tier's.

        Raises:
            ConfigurationError: Neither tier has a base URL.
        """
        own, other = (self.small, self.large) if tier == "small" else (self.large, self.small)
        if own.configured:
            return own
        if other.provider:
            return other
        if other.configured:
            return other.model_copy(update={"model": own.model or other.model})
        msg = (
            "No model is configured. Set AGENTINFER_SMALL__BASE_URL (and AGENTINFER_LARGE__BASE_URL for the large tier), or "
            "pass --small-url and --large-url. A hosted model needs only its name, such as "
            "AGENTINFER_LARGE__MODEL=anthropic:NAME. `agentinfer serve MODEL` starts a local one."
        )
        raise ConfigurationError(msg)


def _named(endpoint: EndpointSettings, name: str) -> EndpointSettings:
    renamed = endpoint.model_copy(update={"model": name})
    hosted = EndpointSettings(model=name, thinking=endpoint.thinking)
    if not hosted.provider or hosted.provider == endpoint.provider:
        return renamed
    # A key, also one among the keyword arguments, belongs to whom it was given for.
    kwargs = {} if endpoint.provider else endpoint.model_kwargs
    return hosted.model_copy(update={"model_kwargs": kwargs})


def _variable(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if str(part).isidentifier()]
    name = "__".join(names).upper()
    return name if name.startswith(("AGENTINFER_", "TAVILY_")) else f"AGENTINFER_{name}"
