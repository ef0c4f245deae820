"""Cards (README.md) of the models that a run trains: the fine-tuned model and the policy.

They are made from the run's files alone. A number that is not measured yet is said to be so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cai.artifacts import CARD, METRICS, POLICY, SCORES, SETTINGS, SFT
from cai.errors import StoreError
from cai.records import Score
from cai.report.cards import card_text, constitution_section, origin, plain_cell
from cai.report.headline_words import change_sentences
from cai.report.sections import MANIFEST, read_stage
from cai.report.table import cell, headline_markdown, headline_metrics
from cai.store import Manifest, atomic_write, json_lines, read_manifest, read_rows

MARK = "<!-- Written by cai report, which replaces this file as long as this line is in it. -->"
SUBJECTS = {SFT: "sft", POLICY: "policy"}
"""Folder of a model -> its name in the scores."""
STEPS = {
    SFT: "by supervised fine-tuning on revisions that a constitution asked for",
    POLICY: "by supervised fine-tuning on revisions that a constitution asked for, and then by PPO "
    "with KL control on a preference model and a rubric",
}
HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Specs of embedded models -> their names on the Hub."""
MAIN_SETTINGS = {
    SFT: ("mode", "lora_rank", "num_trainable_layers", "learning_rate", "epochs", "batch_size"),
    POLICY: ("mode", "lora_rank", "num_trainable_layers", "num_updates", "rollout", "kl"),
}
"""Folder -> keys of its stage's settings that the card lists."""
STAGE_KEYS = {SFT: "sft", POLICY: "ppo"}
INTENDED_USE = (
    "For research on alignment, and for comparison with other runs of the same recipe. The "
    "training changes how often the model refuses; it is no guarantee of safe or true replies. "
    "Measure the model on your own prompts before anyone depends on it."
)
LIMITS = (
    "The rubric that grades the evaluation is also a part of the reward: a policy may learn what "
    "the rubric sees rather than what it means. Read replies too.",
    "The held-out prompts are from the same sources as the training prompts. Prompts of other "
    "forms, languages or topics are not measured.",
    "The intervals cover other prompts of the same kind. They do not cover another seed of the "
    "training.",
    "A lower rate of incorrect replies may come with more refusals of benign prompts: look at "
    "both.",
)


@dataclass(frozen=True)
class RunFacts:
    """What a run's files say for the cards of its models."""

    name: str
    settings: Mapping[str, Any]
    manifests: Sequence[Manifest]
    scores: Sequence[Score]
    last_update: Mapping[str, Any] | None
    """Metrics of PPO's last update."""


def write_model_cards(run_dir: Path) -> list[Path]:
    """Write the card of each finished model of a run, where it is new or differs.

    A README.md that was not written by this function stays as it is.

    Returns:
        The cards that were written.

    Raises:
        StoreError: a file of the run is torn.
    """
    folders = [name for name in SUBJECTS if is_finished_model(run_dir / name)]
    written = []
    facts = read_facts(run_dir) if folders else None
    for name in folders:
        path = run_dir / name / CARD
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        if facts is None or (before is not None and MARK not in before):
            continue
        text = model_card(name, facts).content
        if text != before:
            atomic_write(path, text)
            written.append(path)
    return written


def is_finished_model(folder: Path) -> bool:
    """Whether a stage has finished the model in the folder."""
    manifest = read_manifest(folder)
    return folder.is_dir() and manifest is not None and manifest.finished


def read_facts(run_dir: Path) -> RunFacts:
    """What the run's files say; a file that is missing leaves its fact empty.

    Raises:
        StoreError: a file is torn, or not of this version.
    """
    manifests = [read_stage(path).manifest for path in sorted(run_dir.glob(f"*{MANIFEST}"))]
    settings = _settings(run_dir / SETTINGS)
    scores, metrics = run_dir / SCORES, run_dir / POLICY / METRICS
    updates = [row for _, row in json_lines(metrics)] if metrics.exists() else []
    return RunFacts(
        name=str(settings.get("name") or run_dir.resolve().name),
        settings=settings,
        manifests=manifests,
        scores=list(read_rows(scores, Score)) if scores.exists() else [],
        last_update=updates[-1] if updates else None,
    )


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(f"{path}: cannot be read as the run's settings; restore it") from None


def model_card(
    folder: str, facts: RunFacts, *, license: str | None = None, language: str | None = None
) -> ModelCard:
    """The README of `20-sft` or `60-policy`, front matter included.

    Args:
        license: as the Hub spells it; None: the card says that none is stated.
        language: two-letter code.
    """
    subject = SUBJECTS[folder]
    title = f"{plain_cell(facts.name)}: {subject}"
    results = _eval_results(subject, facts.scores)
    front_matter = ModelCardData(
        base_model=_base_model(facts.settings),
        eval_results=results or None,
        language=language,
        library_name="transformers",
        license=license,
        model_name=title if results else None,
        pipeline_tag="text-generation",
        tags=["constitutional-ai", "rlaif", "cai", *(["ppo"] if folder == POLICY else [])],
    )
    limits = "\n".join(f"- {line}" for line in LIMITS)
    parts = [
        f"# {title}",
        f"Made from {_base_name(facts.settings)} {STEPS[folder]}.",
        f"## Intended use\n\n{INTENDED_USE}",
        constitution_section(facts.manifests),
        _data(facts),
        _training(folder, facts),
        _evaluation(facts),
        _kl(folder, facts),
        f"## Limits\n\n{limits}",
        origin(facts.manifests),
        _terms(license),
        MARK,
    ]
    return ModelCard(card_text(front_matter.to_yaml(), [part for part in parts if part]))


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """Name on the Hub; None for a folder, whose name says nothing elsewhere."""
    spec = str(settings.get("model", ""))
    name = spec.removeprefix("local:")
    if spec in HUB_IDS:
        return HUB_IDS[spec]
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) and not Path(name).exists()
    return name if spec.startswith("local:") and is_hub_id else None


def _base_name(settings: Mapping[str, Any]) -> str:
    """The base model; of a folder only the last part of its path, which tells about a machine."""
    spec = str(settings.get("model", ""))
    if not spec:
        return "a model that the run's files do not name"
    name = _base_model(settings) or Path(spec.removeprefix("local:")).name
    return f"`{plain_cell(name)}`"


def _eval_results(subject: str, scores: Sequence[Score]) -> list[EvalResult]:
    """The headline metrics of the subject, for the model index of the Hub."""
    labels = headline_metrics(score.metric for score in scores)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="cai-held-out-prompts",
            dataset_name="held-out prompts of the run",
            metric_type=score.metric,
            metric_name=labels[score.metric].rstrip(" ↓↑"),
            metric_value=round(score.mean, 4),
        )
        for score in scores
        if score.subject == subject and score.metric in labels and score.mean is not None
    ]


def _data(facts: RunFacts) -> str:
    """Numbers of rows of the stages that made training data."""
    lines = ["## Data", "", "| stage | what | number |", "| --- | --- | ---: |"]
    for manifest in facts.manifests:
        if manifest.stage in ("prompts", "revise", "pair", "label"):
            lines += [
                f"| {plain_cell(manifest.stage)} | {plain_cell(key)} | {plain_cell(str(value))} |"
                for key, value in manifest.counts.items()
                if isinstance(value, int) and value
            ]
    return "\n".join(lines) if len(lines) > 4 else "## Data\n\nThe run's manifests hold no counts."


def _training(folder: str, facts: RunFacts) -> str:
    settings = facts.settings.get(STAGE_KEYS[folder])
    if not isinstance(settings, Mapping):
        return ""
    rows = [
        f"| {key} | {plain_cell(value if isinstance(value, str) else json.dumps(value))} |"
        for name in MAIN_SETTINGS[folder]
        for key, value in _flat(name, settings.get(name))
        if value is not None
    ]
    seed = plain_cell(str(facts.settings.get("seed", "–")))
    head = "| setting | value |\n| --- | --- |"
    return "\n".join(["## Training\n", head, f"| seed | {seed} |", *rows])


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    """(dotted key, value) of a setting, which may be a section of settings."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]


def _evaluation(facts: RunFacts) -> str:
    """The run's table, and its paired changes in words."""
    if not facts.scores:
        return "## Evaluation\n\nNot evaluated yet: `cai eval` does it, and `cai report` this card."
    table = re.sub(r"[<>`]", " ", headline_markdown(facts.scores))
    sentences = [f"- {one.verdict}: {one.text}" for one in change_sentences(facts.scores)]
    note = (
        "Mean [95 % interval], n replies to held-out prompts; intervals count prompts, not draws. "
        "`base` is the model before training."
    )
    return "\n".join(["## Evaluation", "", table, note, "", *sentences]).rstrip()


def _kl(folder: str, facts: RunFacts) -> str:
    """How far the policy is from its reference."""
    if folder != POLICY:
        return ""
    measured = [score for score in facts.scores if score.metric.startswith("kl.")]
    lines = [f"- `{plain_cell(score.metric)}`: {cell(score)} nats a reply" for score in measured]
    last = (facts.last_update or {}).get("kl")
    if isinstance(last, int | float):
        lines.append(f"- at PPO's last update, on its own replies: {last:.2f} nats a reply")
    text = "\n".join(lines) or "Not measured yet."
    ppo = facts.settings.get("ppo")
    is_base = isinstance(ppo, dict) and ppo.get("reference") == "base"
    reference = "the base model" if is_base else "the fine-tuned model"
    return f"## KL from {reference}\n\n{text}"


def _terms(license: str | None) -> str:
    statement = "Nobody has stated a licence for this model yet."
    if license:
        statement = f"Its maker licensed this model as `{plain_cell(license)}`."
    return f"## Terms\n\n{statement} The terms of the model that it is made from apply too."
