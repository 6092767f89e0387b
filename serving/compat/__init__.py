"""Which versions of vLLM the plugin works with, and how that is found out for one that nobody has tried yet.

* `releases`: the versions that are supported, and how each was tested.
* `surface`: every symbol of vLLM that the plugin leans on.
* `sources`: reads symbols from vLLM's source, without importing it.

Nothing else in `agentinfer_lg.serving` asks which version it runs on.
"""
