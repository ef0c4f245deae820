"""The constitution as a JSON Schema, with which editors complete and check the YAML while it is written."""

from __future__ import annotations

from typing import Any

from cai.constitution.schema import Constitution

MODELINE = "# yaml-language-server: $schema=constitution.schema.json"
"""As a file's first line: the schema beside it is the one to use."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12). No key of the rubric is demanded: a file that extends another gives only what it changes."""
    schema = Constitution.model_json_schema()
    schema["$defs"]["Rubric"].pop("required")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
