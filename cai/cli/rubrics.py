"""Constitutions that extend one with fitted values of its rubric."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.constitution import Constitution


def extension_yaml(
    output: Path, name: str, constitution: Constitution, rubric: dict[str, Any]
) -> str:
    """A constitution that extends another one and adds `rubric` to its rubric.

    Args:
        output: the file for the YAML, from which the extended one is named.
        name: the extended constitution, by file or shipped name.
        constitution: the extended constitution, loaded.
        rubric: the keys to add.
    """
    import yaml

    from cai.constitution import find_constitution

    extension = {
        "name": constitution.name,
        "version": constitution.version,
        "extends": [os.path.relpath(find_constitution(name), output.parent)],
        "rubric": rubric,
    }
    text: str = yaml.safe_dump(extension, sort_keys=False, allow_unicode=True)
    return text
