"""Commands of lm-evaluation-harness and Inspect for the models of a run, as a shell script.

Nothing is run here. All models get the same tasks and the same decision on the chat template, so
that their results can be paired.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.artifacts import SUBJECTS
from cai.errors import StoreError, UsageError
from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.store import read_manifest

FOLDER = "70-capability"
"""In the run's folder: results by tool and subject."""
LM_EVAL = "lm-eval"
INSPECT = "inspect"


@dataclass(frozen=True)
class CapabilityTasks:
    """What the tools are to run."""

    lm_eval: Sequence[str]
    """Names as `lm_eval --tasks list` has them."""
    inspect: Sequence[str]
    """Names such as `inspect_evals/arc_easy`, or files with tasks."""
    limit: int | None = None
    """Samples of each task; None: all."""


def subject_models(run: Path, model: str) -> tuple[dict[str, str], list[str]]:
    """(subject -> the folder or hub id of its weights, a note on each that is left out).

    Args:
        run: the run's folder.
        model: the run's own `model`.

    Raises:
        UsageError: the model has no weights that other tools could load.
    """
    name = local_model_name(model)
    if name is None:
        raise UsageError(
            f"{run}: model {model}: other tools load a folder or a hub id, and this is neither"
        )
    models, notes = {}, []
    for subject, artefact in SUBJECTS.items():
        if artefact is None:
            models[subject] = resolve_model_path(name)
            continue
        folder = run / artefact
        manifest = read_manifest(folder)
        if not (folder / "config.json").exists():
            notes.append(f"{subject}: {folder}: not there yet")
        elif manifest is not None and not manifest.finished:
            notes.append(f"{subject}: {folder}: only half made")
        else:
            models[subject] = str(folder.resolve())
    return models, notes


def has_chat_template(models: Mapping[str, str]) -> bool:
    """Whether every model that is a folder has a chat template. cai trains chat models only, so
    that a hub id, which cannot be looked up here, is taken to have one.
    """
    return all(_folder_template(Path(model)) for model in models.values() if Path(model).is_dir())


def _folder_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    file = folder / "tokenizer_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: not readable as JSON: {error}") from error
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def capability_script(
    run: Path, models: Mapping[str, str], tasks: CapabilityTasks, *, chat_template: bool
) -> str:
    """A shell script: for each subject the command of each tool that has tasks."""
    results = run.resolve() / FOLDER
    lines = ["#!/bin/sh", "set -e"]
    for subject, model in models.items():
        lines += ["", f"# {subject}: {model}"]
        if tasks.lm_eval:
            output = results / LM_EVAL / subject
            lines.append(_lm_eval(model, tasks, output, chat_template))
        if tasks.inspect:
            lines.append(_inspect(subject, model, tasks, results / INSPECT / subject))
    shown = shlex.quote(str(results))
    lines += ["", f"cai capability --read {shown}"]
    return "\n".join(lines) + "\n"


def _lm_eval(model: str, tasks: CapabilityTasks, output: Path, chat_template: bool) -> str:
    arguments = f"pretrained={model}"
    if set(",={}'\"") & set(model):
        arguments = json.dumps({"pretrained": model})  # these characters end a value otherwise
    words = ["lm_eval", "--model", "hf", "--model_args", arguments]
    words += ["--tasks", ",".join(tasks.lm_eval)]
    if chat_template:
        words += ["--apply_chat_template", "--fewshot_as_multiturn"]
    words += ["--batch_size", "auto", "--log_samples", "--output_path", str(output)]
    if tasks.limit is not None:
        words += ["--limit", str(tasks.limit)]
    return shlex.join(words)


def _inspect(subject: str, model: str, tasks: CapabilityTasks, output: Path) -> str:
    """Inspect applies the tokenizer's chat template, if there is one, by itself."""
    words = ["inspect", "eval", *tasks.inspect, "--model", f"hf/{subject}"]
    words += ["-M", f"model_path={model}", "--log-dir", str(output)]
    if tasks.limit is not None:
        words += ["--limit", str(tasks.limit)]
    return shlex.join(words)
