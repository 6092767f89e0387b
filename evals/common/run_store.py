"""The folder of a measurement that takes hours: one file per cell, so that a run that was killed goes on."""

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
        wanted = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        file = self.path / "settings.json"
        if not file.exists():
            _write_whole(file, json.dumps(wanted, indent=2))
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            msg = f"{self.path} holds a run with other settings ({', '.join(changed)}). Choose another --out, or delete it."
            raise ConfigurationError(msg)

    def write(self, cell: str, content: Mapping[str, Any]) -> None:  # Any: JSON
        """Write a cell, all of it or nothing."""
        _write_whole(self._file(cell), json.dumps(content, ensure_ascii=False))

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


def _write_whole(file: Path, text: str) -> None:
    """Write a file that is there with all of its text or not at all."""
    part = file.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(file)
