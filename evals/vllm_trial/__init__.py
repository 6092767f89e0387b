"""Does a version of vLLM that nobody has tried fit the plugin, and what changed in it: `agentinfer try-vllm VERSION`.

* `wheel`: the Python part of a version, in a folder.
* `changes`: what of vLLM that the plugin leans on is not as it was.
* `rehearsal`: the plugin inside that version, without a model; `process` runs it.
"""
