"""A model of a hosted provider, by its name: `anthropic:NAME`, `google_genai:NAME` and so on."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.llm.secret_texts import SecretTexts
from agentinfer_lg.settings import EndpointSettings


def make_provider_model(endpoint: EndpointSettings, *, name: str) -> BaseChatModel:
    """Return the chat model that LangChain makes of `provider:name`.

    Args:
        endpoint: With the name, and perhaps with a key and keyword arguments.
        name: What messages call the model.

    Raises:
        ConfigurationError: A package is missing, or the provider refuses the arguments.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ImportError:
        msg = (
            f"The model {endpoint.model} needs LangChain. Install it: pip install 'agentinfer-lg[providers]'."
        )
        raise ConfigurationError(msg) from None
    options, hide = dict(endpoint.model_kwargs), SecretTexts.of(endpoint).hide
    if endpoint.api_key.get_secret_value():
        options.setdefault("api_key", endpoint.api_key.get_secret_value())
    try:
        made = init_chat_model(endpoint.model, **options)
    except ImportError as error:
        package = (error.name or f"langchain-{endpoint.provider}").partition(".")[0].replace("_", "-")
        msg = f"The model {endpoint.model} needs a package: pip install {package}. ({hide(_short(error))})"
        raise ConfigurationError(msg) from None
    except Exception as error:  # a missing key, an unknown argument: each provider has its own kinds
        msg = f"The {name} model {endpoint.model} cannot be made: {hide(_short(error))}"
        raise ConfigurationError(msg) from None
    if not isinstance(made, BaseChatModel):
        msg = f"MODEL_KWARGS of the {name} model must not make it configurable."
        raise ConfigurationError(msg)
    return made


def _short(error: Exception) -> str:
    """Return the first line of an error without the values in it: one may be a key."""
    if hasattr(error, "errors"):
        try:
            return "; ".join(str(item["msg"]) for item in error.errors(include_input=False))
        except (TypeError, KeyError):
            return type(error).__name__
    return " ".join(str(error).split())[:2000]
