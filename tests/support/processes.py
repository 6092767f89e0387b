"""Processes of this machine, as `ps` lists them; zombies do not count."""

from __future__ import annotations

import subprocess


def processes_of(group: int) -> list[str]:
    """Return the command lines of the processes of a group."""
    return [arguments for _, _, pgid, arguments in _listed() if pgid == group]


def groups_below(process: int) -> set[int]:
    """Return the groups of the children of a process."""
    return {group for _, parent, group, _ in _listed() if parent == process}


def _listed() -> list[tuple[int, int, int, str]]:
    command = ["ps", "-eo", "pid,ppid,pgid,stat,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 4) for line in listed.splitlines()[1:]]
    return [(int(row[0]), int(row[1]), int(row[2]), row[4]) for row in rows if not row[3].startswith("Z")]
