"""Files that a run's YAML names, relative to the YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cai.constitution.yaml_source import Source
from cai.data.demonstrations import demonstrations
from cai.errors import StoreError


def readable(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of demonstrations. They are read here, as the stages before `sft` take long.

    Raises:
        StoreError: a row is wrong; the message begins with file:row.
    """
    for file in files:
        for _ in demonstrations(file):
            pass
    return files


def existing(source: Source, key: tuple[str, ...], names: Sequence[str]) -> tuple[Path, ...]:
    """Files that a run names, relative to its YAML.

    Raises:
        StoreError: one of them does not exist.
    """
    files = []
    for name in names:
        file = source.path.parent / Path(name).expanduser()
        if not file.exists():
            hint = f"looked for {file}"
            if name.startswith("hub:"):
                hint = f"get it once, with: cai clean {name} --output FILE"
            raise StoreError(f"{source.at(key)}: {'.'.join(key)}: no such file: {name} ({hint})")
        files.append(file)
    return tuple(files)
