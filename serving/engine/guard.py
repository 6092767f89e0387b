"""A guard over the processes of an engine: they end when the process that started them is gone, however it went."""

from __future__ import annotations

import subprocess

_SCRIPT = 'cat > /dev/null; kill -s TERM -- "-$1"; sleep "$2"; kill -s KILL -- "-$1"'


class Guard:
    """Ends a process group when this process ends, killed or not.

    The guard is a shell that reads from a pipe. Nobody writes into it. Its end comes when the last process with the other
    side is gone, and that is the process that made the guard.
    """

    def __init__(self, group: int, *, patience: float) -> None:
        """Start guarding.

        Args:
            group: Process group, which is the process id of its leader.
            patience: Seconds between the request to end and the kill.
        """
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "sh", str(group), f"{patience:g}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the terminal's group must not end the guard first
        )

    def release(self) -> None:
        """Stop guarding; the group stays as it is."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()
