"""Files of JSON lines for tests."""

from __future__ import annotations

import json
from pathlib import Path


def write_lines(path: Path, *rows: object) -> Path:
    """Write rows as JSON lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
