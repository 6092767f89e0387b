"""The NPUs of a machine, and whether they are enough for a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
"""The variable that names the NPUs that a process may use."""


def npus(folder: Path = Path("/dev")) -> tuple[int, ...]:
    """Return the numbers of the NPUs that have a device file.

    Args:
        folder: Where device files are.
    """
    numbers = (path.name.removeprefix("davinci") for path in folder.glob("davinci[0-9]*"))
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))


def visible_npus(environ: Mapping[str, str], *, present: int) -> int | None:
    """Return how many NPUs an engine may use; None if nothing tells.

    Args:
        environ: Variables of the engine.
        present: NPUs of the machine; 0: none was seen.
    """
    listed = [name for name in environ.get(VISIBLE, "").split(",") if name.strip()]
    if not listed:
        return present or None
    return min(len(listed), present) if present else len(listed)


def npu_shortage(given: Mapping[str, str], environ: Mapping[str, str], *, present: int) -> str:
    """Return why the NPUs do not suffice for the user's flags, as a sentence; empty if they do, or nothing tells.

    Args:
        given: The user's flags for vLLM and their values.
        environ: Variables of the engine.
        present: NPUs of the machine; 0: none was seen.
    """
    flag = next((name for name in ("tensor-parallel-size", "tp") if name in given), "")
    visible = visible_npus(environ, present=present)
    wanted = given.get(flag, "")
    if visible is None or not wanted.isdecimal() or int(wanted) <= visible or _other_machines(given):
        return ""
    listed = environ.get(VISIBLE, "").strip()
    why = f"{VISIBLE}={listed}" if listed else "all of this machine"
    dashes = "--" if len(flag) > 2 else "-"
    return (
        f"{dashes}{flag} {wanted} wants {wanted} NPUs, but {visible} can be used ({why}): "
        f"give at most {visible}, or let the server use more of them ({VISIBLE})"
    )


def _other_machines(given: Mapping[str, str]) -> bool:
    return given.get("distributed-executor-backend") == "ray" or given.get("nnodes", "1") != "1"
