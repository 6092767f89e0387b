"""Every exception this package raises on purpose.

    AgentInferError
    ├── UserInputError        a question, flag or file that cannot be used as given
    ├── ConfigurationError    a setting, key or endpoint that is missing or malformed
    ├── EndpointError         a model server that is dead, refuses the key, or lacks the model
    ├── ToolError             a search, fetch or document that failed; the agent sees it as an observation
    ├── CheckpointError       a run that cannot be saved or resumed
    └── EngineError           a local vLLM server that does not start

The message of each says what is wrong and what to do about it: it is shown to people as it is, without a traceback.
"""

from __future__ import annotations


class AgentInferError(RuntimeError):
    """Base of all errors raised by agentinfer-lg.

    A `RuntimeError`, because the LangGraph server shows Studio only the messages of Python's own kinds of errors; of any
    other it says "An internal error occurred".
    """


class UserInputError(AgentInferError):
    """The question, a flag or a file given by the user cannot be used."""


class ConfigurationError(AgentInferError):
    """A setting is missing or malformed."""


class EndpointError(AgentInferError):
    """A model server cannot be reached, refuses the key, or does not serve the model."""


class ToolError(AgentInferError):
    """A tool call failed; inside a run it becomes an observation, never the end of the run."""


class CheckpointError(AgentInferError):
    """The state of a run cannot be saved, found or read."""


class EngineError(AgentInferError):
    """A local inference engine could not be installed or started."""
