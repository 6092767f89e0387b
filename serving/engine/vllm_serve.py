"""`vllm serve` where the command itself does not start: `python -m agentinfer_lg.serving.engine.vllm_serve MODEL [FLAGS]`.

The CPU wheel of vLLM is installed under another name, under which vLLM's command looks up its version in vain. Its
subcommand `serve` needs no version, and unlike the module `vllm.entrypoints.openai.api_server` it can start several API
server processes.
"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Serve until stopped."""
    serve = importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand()
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(prog="vllm")
    importlib.import_module("vllm.entrypoints.serve.utils.api_utils").cli_env_setup()
    serve.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    arguments = parser.parse_args(["serve", *sys.argv[1:]])
    serve.validate(arguments)
    serve.cmd(arguments)


if __name__ == "__main__":  # processes that vLLM spawns import this module anew, under another name
    main()
