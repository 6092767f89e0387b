"""The folder of a run that takes hours: its settings, its cells, and files that are there whole or not at all.

A run that was killed goes on where it was, and runs of different settings never come together in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import ConfigurationError, UserInputError


@dataclass(frozen=True, slots=True)
class CellFolder:
    """Settings and cells of one run."""

    path: Path

    def has(self, cell: str) -> bool:
        """Tell whether the cell of this name has been run."""
        return self._file(cell).exists()

    @property
    def started(self) -> bool:
        """Whether any cell has been run."""
        return any((self.path / "cells").glob("*.json"))

    def keep_settings(self, settings: Mapping[str, Any]) -> None:  # Any: JSON
        """Keep cells of different settings apart.

        Raises:
            ConfigurationError: The folder holds a run of other settings.
        """
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        keep_settings(self.path, settings)

    def write(self, cell: str, content: Mapping[str, Any]) -> None:  # Any: JSON
        """Write a cell, all of it or nothing."""
        write_json(self._file(cell), content, indent=None)

    def read(self, *, command: str) -> list[dict[str, Any]]:  # Any: JSON
        """Return all cells, by their names.

        Args:
            command: That writes such runs, for the message.

        Raises:
            UserInputError: The folder is no run.
        """
        files = sorted((self.path / "cells").glob("*.json"))
        if not files:
            msg = f"{self.path} holds no cells. Pass the folder that `{command} --out FOLDER` wrote."
            raise UserInputError(msg)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def _file(self, cell: str) -> Path:
        return self.path / "cells" / f"{cell}.json"


def keep_settings(
    folder: Path, settings: Mapping[str, Any], *, told: Mapping[str, Any] | None = None
) -> None:  # Any: JSON
    """Write the settings of a new run to `settings.json`, or compare those of one that goes on.

    What an earlier version did not write down is not compared.

    Args:
        folder: Of the run.
        settings: Those that must match.
        told: What is written down beside them and may change, such as versions.

    Raises:
        ConfigurationError: The folder holds a run with other settings.
    """
    wanted = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if not file.exists():
        write_json(file, {**wanted, **(told or {})})
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    changed = [name for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    if changed:
        msg = f"{folder} holds a run with other settings ({', '.join(changed)}). Choose another --out, or delete it."
        raise ConfigurationError(msg)


def write_json(file: Path, value: object, *, indent: int | None = 2) -> None:
    """Write a JSON file that is there with all of its text or not at all."""
    write_whole(file, f"{json.dumps(value, ensure_ascii=False, indent=indent)}\n".encode())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is there with all of its content or not at all."""
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)
