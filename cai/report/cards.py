"""Cards: what is in a data set or a preference model, what made it, what was left out, and a warning where texts do harm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData

from cai.records import Preference, Prompt, Revision, Score
from cai.report.formats import interval
from cai.store import Manifest

WARNING = (
    "> **Warning.** These prompts ask for harm on purpose, and replies may contain what they ask for. The texts are meant for\n"
    "> making models safer; don't show them to people who have not been told."
)
OPINIONS = "Its labels are a model's opinions under written principles, not people's: check it on human labels before use."
COLUMNS = {
    "sft": "`prompt` and `completion` are lists of role and content; `id` names the row of the run that it came from.",
    "preferences": (
        "`prompt`, `chosen` and `rejected` are lists of role and content. `p_chosen` is the label: the judge's probability "
        "that the chosen reply is the better one; `margin` is its log-odds in nats. Trainers that read neither take every row "
        "for certain."
    ),
    "prompts": (
        "The prompts alone, for trainers that draw replies themselves (TRL's GRPO and RLOO): `prompt` is a list of role and "
        "content; `kind` says what a reply should do (disallowed: refuse, sensitive: support, benign: comply; null: not known), "
        "and the rubric's reward goes by it; `id` is the prompt's name in the run."
    ),
}


def dataset_card(
    name: str,
    rows: Mapping[str, int],
    manifests: Sequence[Manifest],
    left_out: Mapping[str, Counter[str]],
    *,
    harmful: bool,
    saved: bool = False,
    license: str | None = None,
    language: str | None = None,
) -> DatasetCard:
    """The README of an export, front matter included.

    Args:
        rows: config (`sft`, `preferences`, `prompts`) -> rows in it.
        manifests: of the artefacts that it was made from.
        left_out: stage -> reason -> rows.
        harmful: whether any prompt asks for harm.
        saved: the tables are folders that `datasets` saved, rather than Parquet.
        license: as the Hub spells it; None: nobody has said, and the card says so.
    """
    about = DatasetCardData(
        language=language,
        license=license,
        pretty_name=name,
        tags=["constitutional-ai", "rlaif", "synthetic", *["not-for-all-audiences"] * harmful],
        task_categories=["text-generation"],
        size_categories=[_size(sum(rows.values()))],
        configs=None if saved else [_table_of(name) for name in rows],
    )
    parts = [
        f"# {name}",
        *[WARNING] * harmful,
        _contents(rows, saved),
        _origin(manifests),
        _losses(left_out),
        _terms(license),
    ]
    return DatasetCard(f"---\n{about.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def preference_card(
    labels: str,
    pairs: int,
    measured: Sequence[Score],
    made: Manifest | None,
    name: str,
    base: str,
    over: str,
) -> ModelCard:
    """The README of a preference model: what it is, what it learnt from, how well it agrees with what it has not seen."""
    about = ModelCardData(
        library_name="cai", tags=["constitutional-ai", "rlaif", "preference-model"]
    )
    rows = "\n".join(
        f"| {score.metric} | {_number(score.mean)} | {interval(score.ci_low, score.ci_high, '.3f')} | {score.n} |"
        for score in measured
    )
    parts = [
        f"# Preference model ({name})",
        f"A LoRA adapter and a scalar head (`safetensors`) on {base}. The score of "
        f"a reply is read at its last token; `gain * score + bias` has mean 0 and variance 1 over {over}.",
        f"Trained on {pairs} pairs with {labels} labels{' of an AI judge' if made else ''}, by soft Bradley-Terry.",
        f"| on held-out prompts | mean | 95 % interval | n |\n|---|---:|---:|---:|\n{rows}",
        *([_origin([made])] if made else []),
        *[OPINIONS] * bool(made),
    ]
    return ModelCard(f"---\n{about.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def losses(
    prompts: Manifest | None, revisions: Iterable[Revision], preferences: Iterable[Preference]
) -> dict[str, Counter[str]]:
    """stage -> reason -> rows that are not in the export."""
    hygiene = (
        {}
        if prompts is None
        else {k: int(v) for k, v in prompts.counts.items() if isinstance(v, int | float)}
    )
    found = {
        "prompts": Counter({k: v for k, v in hygiene.items() if k not in ("train", "held_out")}),
        "revise": Counter(_kind_of(r.dropped) for r in revisions if r.dropped),
        "label": Counter(reason for p in preferences if (reason := unusable(p))),
    }
    return {stage: counts for stage, counts in found.items() if counts}


def unusable(preference: Preference) -> str | None:
    """Why a label says nothing about which reply to choose; None: it does."""
    if preference.p_first is None:
        return _kind_of(preference.unscored or "unscored")
    return "both replies are equally good" if preference.p_first == 0.5 else None


def harmful(prompts: Iterable[Prompt]) -> bool:
    return any(prompt.kind == "disallowed" for prompt in prompts)


def _kind_of(reason: str) -> str:
    """A reason without what follows its first colon, which may quote a server: `no answer: …` is `no answer`."""
    head, _, rest = reason.partition(": ")
    return f"{head}: {rest}" if head == "rubric" else head


def _table_of(name: str) -> dict[str, object]:
    return {
        "config_name": name,
        "data_files": [{"split": "train", "path": f"{name}/train.parquet"}],
    }


def _contents(rows: Mapping[str, int], saved: bool) -> str:
    lines = [f"- **{name}**: {count:,} rows. {COLUMNS[name]}" for name, count in rows.items()]
    first = next(iter(rows))
    load = (
        f'load_from_disk("FOLDER/{first}")'
        if saved
        else f'load_dataset("FOLDER", "{first}", split="train")'
    )
    return "\n".join(["## What is in it", "", *lines, "", f"```python\ndatasets.{load}\n```"])


def _origin(manifests: Sequence[Manifest]) -> str:
    table = [
        "## What made it",
        "",
        "| stage | constitution | model | seed | rows read from |",
        "| --- | --- | --- | --- | --- |",
    ]
    for made in manifests:
        about = made.made
        model = about.get("model") or about.get("judge") or about.get("input 20-sft") or "–"
        inputs = ", ".join(key.removeprefix("input ") for key in about if key.startswith("input "))
        cells = (made.stage, about.get("constitution", "–"), model, about.get("seed", "–"), inputs)
        table.append(f"| {' | '.join(map(_cell, cells))} |")
    told = (
        ", ".join(f"{name} {number}" for name, number in manifests[-1].versions.items())
        if manifests
        else ""
    )
    return "\n".join(
        [
            *table,
            "",
            f"Made with {told}. Digests of every setting stand in the run's manifests."
            if told
            else "",
        ]
    )


def _losses(left_out: Mapping[str, Counter[str]]) -> str:
    if not left_out:
        return "## What was left out\n\nNothing."
    table = ["## What was left out", "", "| stage | reason | rows |", "| --- | --- | ---: |"]
    for stage, counts in left_out.items():
        table += [
            f"| {stage} | {_cell(reason)} | {count:,} |" for reason, count in counts.most_common()
        ]
    return "\n".join(table)


def _terms(license: str | None) -> str:
    said = (
        f"The maker of this export licensed it as `{license}`."
        if license
        else "Nobody has stated a licence for this export yet."
    )
    return (
        f"## Terms\n\n{said} Terms of the prompts' sources and of the models above apply beside it."
    )


def _cell(text: str) -> str:
    return re.sub(r"[|\n\r`<>\[\]]", " ", text)


def _size(rows: int) -> str:
    steps = (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
        (10_000_000, "1M<n<10M"),
    )
    return next((name for limit, name in steps if rows < limit), "10M<n<100M")
