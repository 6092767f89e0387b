"""Starting a server from Python: the public path of `ServeOptions` and `Server`."""

from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server

__all__ = ("ServeOptions", "Server")
