"""Cards (README.md) of exported data sets and of preference models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData

from cai.records import Preference, Prompt, Revision, Score
from cai.report.formats import interval
from cai.report.provenance import used_constitution
from cai.store import Manifest

WARNING = (
    "> **Warning.** These prompts ask for harm on purpose, and replies may contain what they ask "
    "for. The texts are meant for\n"
    "> making models safer; don't show them to people who have not been told."
)
OPINIONS = (
    "Its labels are a model's opinions under written principles, not people's: check it on human "
    "labels before use."
)
COLUMNS = {
    "sft": (
        "`prompt` and `completion` are lists of role and content; `id` names the row of the run "
        "that it came from."
    ),
    "preferences": (
        "`prompt`, `chosen` and `rejected` are lists of role and content. `p_chosen` is the label: "
        "the judge's probability that the chosen reply is the better one; `margin` is its log-odds "
        "in nats. Trainers that read neither take every row for certain."
    ),
    "prompts": (
        "The prompts alone, for trainers that draw replies themselves (TRL's GRPO and RLOO): "
        "`prompt` is a list of role and content; `kind` says what a reply should do (disallowed: "
        "refuse, sensitive: support, benign: comply; null: not known), and the rubric's reward "
        "goes by it; `id` is the prompt's name in the run."
    ),
}
"""Config -> what its columns hold."""
SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def dataset_card(
    name: str,
    rows: Mapping[str, int],
    manifests: Sequence[Manifest],
    left_out: Mapping[str, Counter[str]],
    *,
    details: Sequence[str] = (),
    harmful: bool,
    saved: bool = False,
    license: str | None = None,
    language: str | None = None,
) -> DatasetCard:
    """The README of an export, front matter included.

    Args:
        rows: config (`sft`, `preferences`, `prompts`) -> number of its rows.
        manifests: of the artefacts that were exported.
        left_out: stage -> reason -> rows.
        details: sections about the rows: see `cai.report.data_details`.
        harmful: whether any prompt asks for harm.
        saved: the tables are folders that `datasets` saved, rather than Parquet.
        license: as the Hub spells it; None: the card says that none is stated.
    """
    tags = ["constitutional-ai", "rlaif", "synthetic"]
    if harmful:
        tags.append("not-for-all-audiences")
    front_matter = DatasetCardData(
        language=language,
        license=license,
        pretty_name=name,
        tags=tags,
        task_categories=["text-generation"],
        size_categories=[_size_category(sum(rows.values()))],
        configs=None if saved else [_parquet_config(name) for name in rows],
    )
    parts = [f"# {name}"]
    if harmful:
        parts.append(WARNING)
    parts += [_contents(rows, saved), *details, constitution_section(manifests)]
    parts += [origin(manifests), _losses(left_out), _terms(license)]
    return DatasetCard(card_text(front_matter.to_yaml(), parts))


def constitution_section(manifests: Sequence[Manifest]) -> str:
    """Name, version and digest of the constitution that a run's stages read."""
    used = used_constitution(manifests)
    if used is None:
        return "## Constitution\n\nThe run's manifests name none."
    names = ", ".join(f"`{plain_cell(name)}`" for name in used.names)
    text = f"{names}, digest `{used.digest}` of the {used.parts} parts that the stages read."
    if used.differing:
        parts = ", ".join(f"`{plain_cell(name)}`" for name in used.differing)
        text += f" Stages read different texts of {parts}."
    return f"## Constitution\n\n{text}"


def preference_card(
    mode: str,
    labels: str,
    pairs: int,
    measured: Sequence[Score],
    labels_manifest: Manifest | None,
    name: str,
    base: str,
    over: str,
) -> ModelCard:
    """The README of a preference model, front matter included.

    Args:
        mode: "lora" or "full": what was trained.
        labels: "soft" or "hard".
        pairs: number of training pairs.
        measured: held-out scores.
        labels_manifest: of an AI judge's labels; None: labels from elsewhere.
        name: title of the card.
        base: what the model is built on.
        over: the replies whose scores have mean 0 and variance 1.
    """
    front_matter = ModelCardData(
        library_name="cai", tags=["constitutional-ai", "rlaif", "preference-model"]
    )
    header = "| on held-out prompts | mean | 95 % interval | n |\n|---|---:|---:|---:|"
    scores = "\n".join(_score_row(score) for score in measured)
    judge = " of an AI judge" if labels_manifest else ""
    model = "A LoRA adapter" if mode == "lora" else "All weights, in `model`,"
    parts = [
        f"# Preference model ({name})",
        f"{model} and a scalar head (`safetensors`) on {base}. The score of "
        f"a reply is read at its last token; `gain * score + bias` has mean 0 and variance 1 "
        f"over {over}.",
        f"Trained on {pairs} pairs with {labels} labels{judge}, by soft Bradley-Terry.",
        f"{header}\n{scores}",
    ]
    if labels_manifest:
        parts += [origin([labels_manifest]), OPINIONS]
    return ModelCard(card_text(front_matter.to_yaml(), parts))


def card_text(front_matter: str, parts: Sequence[str]) -> str:
    return f"---\n{front_matter}\n---\n\n" + "\n\n".join(parts) + "\n"


def _score_row(score: Score) -> str:
    mean = "–" if score.mean is None else f"{score.mean:.3f}"
    bounds = interval(score.ci_low, score.ci_high, ".3f")
    return f"| {score.metric} | {mean} | {bounds} | {score.n} |"


def left_out_rows(
    prompts: Manifest | None, revisions: Iterable[Revision], preferences: Iterable[Preference]
) -> dict[str, Counter[str]]:
    """stage -> reason -> rows that are not in the export; stages without losses are left out."""
    hygiene: Counter[str] = Counter()
    if prompts is not None:
        for reason, count in prompts.counts.items():
            if isinstance(count, int | float) and reason not in ("train", "held_out"):
                hygiene[reason] = int(count)
    dropped = Counter(_general_reason(row.dropped) for row in revisions if row.dropped)
    reasons = [unusable_reason(preference) for preference in preferences]
    unlabelled = Counter(reason for reason in reasons if reason)
    counts = {"prompts": hygiene, "revise": dropped, "label": unlabelled}
    return {stage: counter for stage, counter in counts.items() if counter}


def unusable_reason(preference: Preference) -> str | None:
    """Why a label does not say which reply to choose; None: it does."""
    if preference.p_first is None:
        return _general_reason(preference.unscored or "unscored")
    return "both replies are equally good" if preference.p_first == 0.5 else None


def any_harmful(prompts: Iterable[Prompt]) -> bool:
    """Whether any prompt asks for harm."""
    return any(prompt.kind == "disallowed" for prompt in prompts)


def _general_reason(reason: str) -> str:
    """A reason up to its first colon: `no answer: …` -> `no answer`. The rest may quote a server.

    Reasons that start with "rubric" are returned as they are.
    """
    head, _, rest = reason.partition(": ")
    return f"{head}: {rest}" if head == "rubric" else head


def _parquet_config(name: str) -> dict[str, object]:
    data_files = [{"split": "train", "path": f"{name}/train.parquet"}]
    return {"config_name": name, "data_files": data_files}


def _contents(rows: Mapping[str, int], saved: bool) -> str:
    lines = [f"- **{name}**: {count:,} rows. {COLUMNS[name]}" for name, count in rows.items()]
    first = next(iter(rows))
    load = f'load_dataset("FOLDER", "{first}", split="train")'
    if saved:
        load = f'load_from_disk("FOLDER/{first}")'
    return "\n".join(["## What is in it", "", *lines, "", f"```python\ndatasets.{load}\n```"])


def origin(manifests: Sequence[Manifest]) -> str:
    """Stage by stage, the constitution, model and seed behind the rows."""
    lines = [
        "## What made it",
        "",
        "| stage | constitution | model | seed | rows read from |",
        "| --- | --- | --- | --- | --- |",
    ]
    for manifest in manifests:
        settings = manifest.provenance
        model = settings.get("model") or settings.get("judge") or settings.get("input 20-sft")
        inputs = [key.removeprefix("input ") for key in settings if key.startswith("input ")]
        cells = (
            manifest.stage,
            settings.get("constitution", "–"),
            model or "–",
            settings.get("seed", "–"),
            ", ".join(inputs),
        )
        lines.append(f"| {' | '.join(plain_cell(text) for text in cells)} |")
    lines += ["", _versions(manifests)]
    return "\n".join(lines)


def _versions(manifests: Sequence[Manifest]) -> str:
    """Package versions of the last manifest, as a sentence; empty when there are none."""
    if not manifests or not manifests[-1].versions:
        return ""
    versions = ", ".join(f"{name} {number}" for name, number in manifests[-1].versions.items())
    return f"Made with {versions}. Digests of every setting stand in the run's manifests."


def _losses(left_out: Mapping[str, Counter[str]]) -> str:
    if not left_out:
        return "## What was left out\n\nNothing."
    lines = ["## What was left out", "", "| stage | reason | rows |", "| --- | --- | ---: |"]
    for stage, counts in left_out.items():
        for reason, count in counts.most_common():
            lines.append(f"| {stage} | {plain_cell(reason)} | {count:,} |")
    return "\n".join(lines)


def _terms(license: str | None) -> str:
    statement = "Nobody has stated a licence for this export yet."
    if license:
        statement = f"The maker of this export licensed it as `{license}`."
    sources = "Terms of the prompts' sources and of the models above apply beside it."
    return f"## Terms\n\n{statement} {sources}"


def plain_cell(text: str) -> str:
    """Text without Markdown and HTML markup."""
    return re.sub(r"[|\n\r`<>\[\]]", " ", text)


def _size_category(rows: int) -> str:
    """The Hub's name of a data set's size."""
    for limit, name in SIZE_CATEGORIES:
        if rows < limit:
            return name
    return "10M<n<100M"
