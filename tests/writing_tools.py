"""Every command that writes files, on small inputs of its own."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from data_toys import prompt
from json_lines import write_lines
from suite_toys import write_sets

from cai import store
from cai.records import Pair, Preference, Prompt
from cai.shipped import AUDIT_BANKS

COUNT = 20
"""Rows of an input: more than two batches of a fake model."""
RUBRIC = ("--constitution", "harmless")
Arguments = tuple[object, ...]
Tool = Callable[[Path, Path], Arguments]
"""(folder of the inputs, path of the output) -> the command's arguments."""


def write_inputs(folder: Path) -> None:
    """Write the inputs of all tools into a folder."""
    folder.mkdir()
    kinds = ("disallowed", "benign", "sensitive")
    about = [
        {"prompt": f"Say {i}, and {i * 7}.", "kind": kinds[i % 3], "category": "fraud"}
        for i in range(COUNT)
    ]
    write_lines(folder / "prompts.jsonl", *about)
    pairs = [row | {"first": "one " * (i % 4), "second": "two"} for i, row in enumerate(about)]
    write_lines(folder / "pairs.jsonl", *pairs)
    replies = [
        row
        | {
            "response": "I'm sorry, I can't." if i % 2 else f"Sure: {i}.",
            "holds": i % 2 == 0,
            "propositions": {"declines": i % 2 == 1},
        }
        for i, row in enumerate(about)
    ]
    write_lines(folder / "replies.jsonl", *replies)
    ordered = [
        {"prompt": f"Say {i // 2}.", "kind": "benign", "rank": i % 2, "response": text}
        for i, text in enumerate(["Yes: 1, 2, 3.", "I'm sorry, I can't."] * 8)
    ]
    write_lines(folder / "ordered.jsonl", *ordered)
    chosen = [{"prompt": f"q{i}", "first": "a", "second": "b", "p_first": 1} for i in range(8)]
    write_lines(folder / "labels.jsonl", *chosen)
    write_lines(folder / "preferred.jsonl", *_preferences())
    shutil.copy(AUDIT_BANKS / "en.yaml", folder / "bank.yaml")
    write_sets(folder / "sets")
    _write_run(folder / "run")


def _preferences() -> list[dict[str, str]]:
    """Pairs enough to propose a rubric from: the chosen replies say "of course"."""
    draw = random.Random(0)
    rows = []
    for i in range(100):
        chosen, rejected = (" word" * draw.randint(1, 9) for _ in range(2))
        rows.append({"prompt": f"q{i}", "chosen": f"Of course:{chosen}", "rejected": rejected})
    return rows


def write_preference_model(folder: Path) -> None:
    """Write `pm`, a preference model of the model in `tiny`, into the folder of the inputs."""
    from preference_toys import untrained_model  # torch takes seconds to import

    (folder / "pm").mkdir()
    tiny = folder / "tiny"
    untrained_model(tiny, layers=1).save(folder / "pm", f"local:{tiny}")


def _write_run(folder: Path) -> None:
    """A run's folder with prompts, pairs and labels."""
    folder.mkdir()
    prompts = [prompt(f"Say {i}.", kind="benign") for i in range(3)]
    pairs = [Pair(source=p.id, chat=p.chat, first="a", second="b") for p in prompts]
    labels = [Preference(source=pair.id, p_first=0.75) for pair in pairs]
    rows: dict[str, list[Prompt] | list[Pair] | list[Preference]] = {
        "00-prompts": prompts,
        "30-pairs": pairs,
        "40-preferences": labels,
    }
    for name, content in rows.items():
        path = folder / f"{name}.jsonl"
        store.begin_artifact(path, name, {"seed": "0"})
        store.append_rows(path, content)
        store.finish_artifact(path)


def _on_lines(command: str, model: str, rows: str, *more: object) -> Tool:
    def arguments(inputs: Path, output: Path) -> Arguments:
        files = ("--input", inputs / rows, "--output", output)
        return (command, *RUBRIC, "--model", model, *files, *more)

    return arguments


def _evaluation(name: str, data: str, **files: str) -> Tool:
    """One evaluation; `files` are inputs that its options name."""

    def arguments(inputs: Path, output: Path) -> Arguments:
        more = [part for key, file in files.items() for part in (f"--{key}", inputs / file)]
        subject = ("eval", "--only", name, "--model", "fake:polite")
        return (*subject, "--data", inputs / data, "--output", output, *more)

    return arguments


GROWING: dict[str, Tool] = {
    "revise": _on_lines("revise", "fake:polite", "prompts.jsonl"),
    "label": _on_lines("label", "fake:brief", "pairs.jsonl"),
    "grade": _on_lines("grade", "fake:echo", "replies.jsonl", "--ask-all", "--prefix", "g_"),
}
"""Tools whose output grows row by row."""
REPLACED: dict[str, Tool] = {
    "eval": _evaluation("refusal", "prompts.jsonl"),
    "eval-choices": _evaluation("hhh", "sets/hhh.jsonl"),
    "eval-jailbreak": _evaluation("jailbreak", "prompts.jsonl", templates="sets/templates.txt"),
    "eval-truthfulqa-open": lambda inputs, output: (
        *_evaluation("truthfulqa-open", "sets/TruthfulQA.csv")(inputs, output),
        *("--judge", "fake:echo"),
    ),
    "attack": lambda inputs, output: (
        *("attack", "--target", "fake:polite", "--budget", 30, "--turns", 3),
        *("--attacker", "fake:echo", "--translator", "fake:echo", "--language", "Swahili"),
        *("--prompts", inputs / "prompts.jsonl", "--output", output),
    ),
    "eval-elo": lambda inputs, output: (
        *(
            "eval",
            "--only",
            "elo",
            "--subject",
            "base=fake:echo",
            "--subject",
            "policy=fake:polite",
        ),
        *("--judge", "fake:brief", "--data", inputs / "prompts.jsonl", "--output", output),
    ),
    "redteam": lambda inputs, output: (
        *("redteam", *RUBRIC, "--model", "fake:echo", "--seeds", inputs / "prompts.jsonl"),
        *("--category", "fraud", "--per-category", 1, "--tries", 9, "--output", output),
    ),
    "clean": lambda inputs, output: (
        *("clean", inputs / "prompts.jsonl", "--near", "0.9", "--output", output),
    ),
    "near-miss": lambda inputs, output: (
        *("near-miss", *RUBRIC, "--prompts", inputs / "prompts.jsonl", "--output", output),
    ),
    "fit": lambda inputs, output: (
        *("fit", *RUBRIC, "--input", inputs / "ordered.jsonl", "--output", output),
    ),
    "fit-grader": lambda inputs, output: (
        *("fit-grader", "--input", inputs / "replies.jsonl", "--licence", "MIT"),
        *("--replies", 1, "--output", output),
    ),
    "propose-rubric": lambda inputs, output: (
        *("propose-rubric", "--input", inputs / "preferred.jsonl", "--output", output),
    ),
    "audit-rubric": lambda inputs, output: (
        *("audit-rubric", "harmless", "--bank", inputs / "bank.yaml", "--output", output),
    ),
    "calibrate": _on_lines("calibrate", "fake:echo", "replies.jsonl"),
}
"""Tools that write their output in one go."""
FOLDERS: dict[str, Tool] = {
    "init": lambda inputs, output: ("init", output),
    "export": lambda inputs, output: ("export", inputs / "run", "--output", output),
    "export-verl": lambda inputs, output: (
        *("export", inputs / "run", "--to", "verl", "--output", output),
    ),
    "fit-reward": lambda inputs, output: (
        *("fit-reward", "--model", f"local:{inputs / 'tiny'}", "--output", output),
        *("--input", inputs / "labels.jsonl", "--set", "lora_rank=2", "--set", "epochs=2"),
        *("--set", "save_every=1"),
    ),
}
"""Tools that write a new folder. The model of `fit-reward` is not among the inputs."""
KEPT_FOLDERS: dict[str, Tool] = {
    "eval-suite": lambda inputs, output: (
        *("eval", "--suite", inputs / "sets" / "suite.yaml"),
        *("--model", "fake:polite", "--output", output),
    ),
}
"""Tools that go on in the folder that they began."""
WITH_WEIGHTS: dict[str, Tool] = {
    "eval-harm": _evaluation("harm", "prompts.jsonl", preference="pm"),
}
"""Tools that need what `write_preference_model` writes."""
TOOLS = GROWING | REPLACED | FOLDERS | KEPT_FOLDERS | WITH_WEIGHTS


def command_of(name: str) -> str:
    """The command that a tool of this name runs: an evaluation is one of `eval`."""
    return "eval" if name.startswith("eval-") else name


def output_name(tool: str) -> str:
    """The name of a tool's output: its suffix is that of the format."""
    suffixes = {"fit": ".yaml", "calibrate": ".yaml", "propose-rubric": ".yaml"}
    suffixes |= {"fit-grader": ".json", "audit-rubric": ".json"}
    return "out" if tool in FOLDERS | KEPT_FOLDERS else "out" + suffixes.get(tool, ".jsonl")


def tree(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> content, of every file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
