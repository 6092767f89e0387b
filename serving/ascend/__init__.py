"""What vLLM-Ascend needs beyond the extension points of vLLM: one module for each symbol that is replaced.

* `spec_decode_method`: the function by which Ascend's model runner makes its proposer.

`symbols` checks what is replaced before it is; `patches` says when. `conflicts` replaces nothing: it finds options of
Ascend that choose another scheduler.
"""
