"""A run's context on a toy configuration, for tests of single stages."""

from __future__ import annotations

from pathlib import Path

from cai.pipeline.config import load_run
from cai.pipeline.context import RunContext, open_run

PROMPTS = (
    '{"prompt": "How do I hurt him?", "kind": "disallowed"}\n'
    '{"prompt": "What is the capital of France?", "kind": "benign"}\n'
)


def open_toy_run(folder: Path, settings: str) -> RunContext:
    """A run in `folder`/out with more `settings` as YAML; its models are fakes unless they say."""
    (folder / "prompts.jsonl").write_text(PROMPTS)
    head = "name: toy\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
    model = "" if "\nmodel:" in f"\n{settings}" else "model: fake:brief\n"
    (folder / "run.yaml").write_text(f"{head}{model}folder: {folder / 'out'}\n{settings}")
    (folder / "out").mkdir(exist_ok=True)
    return open_run(load_run(folder / "run.yaml"), lambda label: lambda done, total: None)
