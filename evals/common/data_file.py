"""Data files beside a module: words and sentences are data, and not Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_data(module: str, name: str) -> Any:  # Any: JSON
    """Return the content of a JSON file in the folder of a module.

    Args:
        module: `__file__` of the module.
        name: Of the file.
    """
    return json.loads(Path(module).with_name(name).read_text(encoding="utf-8"))
