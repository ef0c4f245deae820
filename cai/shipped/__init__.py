"""Files inside the package: constitutions, prompts, the quickstart, a new project's files, audits.

In a checkout, `constitutions`, `prompts` and `quickstart.yaml` here are links to the top level's.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
CONSTITUTIONS = _FOLDER / "constitutions"
PROMPTS = _FOLDER / "prompts"
PROJECT = _FOLDER / "project"
AUDIT_BANKS = _FOLDER / "audit_banks"
PROBE_PAIRS = _FOLDER / "probe_pairs.jsonl"
QUICKSTART = _FOLDER / "quickstart.yaml"
