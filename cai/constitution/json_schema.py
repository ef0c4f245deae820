"""The JSON Schema of a constitution, with which editors complete and check the YAML."""

from __future__ import annotations

from typing import Any

from cai.constitution.schema import Constitution

MODELINE = "# yaml-language-server: $schema=constitution.schema.json"
"""The first line of a YAML file that names the schema file in the same folder."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12).

    No key of the rubric is required: a file that extends another gives only what it changes.
    """
    schema = Constitution.model_json_schema()
    schema["$defs"]["Rubric"].pop("required")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
