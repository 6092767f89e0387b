"""What vLLM-Ascend needs beyond the extension points of vLLM: one module for each symbol that is replaced.

* `spec_decode_method`: the function by which Ascend's model runner makes its proposer.

`symbols` checks what is replaced before it is; `patches` says when. The others replace nothing: `conflicts` finds options
of Ascend that choose another scheduler, `devices` counts NPUs, `releases` knows which versions belong together, and
`installation` looks whether they do on this machine.
"""
