"""Run the command line with `python -m agentinfer_lg.cli`."""

from agentinfer_lg.cli import main

main()
