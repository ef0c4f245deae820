"""Prompt loading from several files, and splits into training and held-out sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from cai.data.dedupe import clean, filtered_prompts
from cai.data.filters import HygieneConfig, PromptFilters, compared_text, prompt_key
from cai.data.readers import prompt_rows
from cai.errors import StoreError
from cai.records import Chat, Prompt, TrainingChat
from cai.seeds import rng

T = TypeVar("T")
Stratum = tuple[str | None, str | None]
"""(kind, category) of a prompt."""
EXACT = HygieneConfig()
"""Drops exact repetitions only."""


def read_prompts(
    files: Sequence[Path],
    config: HygieneConfig = EXACT,
    against: Sequence[Path] = (),
    count_tokens: Callable[[str], int] = len,
) -> tuple[list[Prompt], Counter[str]]:
    """(prompts of several files that pass the filters, in order; reason -> prompts).

    Args:
        against: files of evaluation texts.
        count_tokens: text -> tokens.

    Raises:
        StoreError: a file is missing, a row is wrong (file:row), or no prompt is left.
    """
    rules = PromptFilters(config, count_tokens, _texts(against))

    def read() -> Iterator[Prompt]:
        for file in files:
            yield from prompt_rows(file)

    cleaned = clean(read, config, rules)
    prompts = list(filtered_prompts(read, rules, cleaned))
    if not prompts:
        names = ", ".join(map(str, files)) or "prompts"
        reasons = ", ".join(f"{count} {reason}" for reason, count in cleaned.counts.items())
        dropped = f" (dropped: {reasons})" if reasons else ""
        raise StoreError(f"{names}: no prompt in it{dropped}; a run needs at least one")
    return prompts, cleaned.counts


def clean_training(
    chats: Sequence[Chat], config: HygieneConfig, against: Sequence[Path] = ()
) -> tuple[dict[int, Chat], Counter[str]]:
    """(index -> training chat that passes the filters, masked if so configured; reason -> chats).

    Each chat ends with the reply to learn. Only the filters that concern replies apply (see
    `HygieneConfig.for_training_rows`).
    """
    reply_config = config.for_training_rows
    rows = [TrainingChat(chat=chat) for chat in chats]
    rules = PromptFilters(reply_config, len, _texts(against))
    cleaned = clean(lambda: iter(rows), reply_config, rules)
    kept = filtered_prompts(lambda: iter(rows), rules, cleaned)
    indices = [index for index, code in enumerate(cleaned.codes) if code == 0]
    return {index: row.chat for index, row in zip(indices, kept, strict=True)}, cleaned.counts


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        for prompt in prompt_rows(file):
            yield compared_text(prompt)


def split(
    prompts: Sequence[Prompt], fraction: float, seed: int, by: Literal["user", "origin"] = "user"
) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held-out) prompts, both in input order.

    Of every kind and category, `fraction` is held out, as nearly as the groups allow. Prompts of
    one `user` (or one `origin`) form a group, which is never divided; a prompt without one is a
    group of its own. Groups that hold the same words of a user (see `prompt_key`) are one. The
    order in which groups are drawn follows from the seed and the group's name (or the prompt's
    content) alone, so prompts of other categories do not change the side of a single prompt.
    """
    strata = Counter(map(_stratum, prompts))
    missing = {stratum: round(fraction * count) for stratum, count in strata.items()}
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt, name in zip(prompts, _group_names(prompts, by), strict=True):
        groups[name].append(prompt)
    held_out: set[str] = set()
    for name in sorted(groups, key=lambda name: rng(seed, "split", name).random()):
        sizes = Counter(map(_stratum, groups[name]))
        # A group is taken unless that moves the counts away from the targets: otherwise one user
        # with many prompts would keep all others from being held out.
        if _distance_change(missing, sizes) <= 0:
            held_out.update(prompt.id for prompt in groups[name])
            for stratum, count in sizes.items():
                missing[stratum] -= count
    return (
        [prompt for prompt in prompts if prompt.id not in held_out],
        [prompt for prompt in prompts if prompt.id in held_out],
    )


def _group_names(prompts: Sequence[Prompt], by: Literal["user", "origin"]) -> list[str]:
    """The group of every prompt: the first, in input order, of those that are one."""
    parents: dict[str, str] = {}
    first_with_key: dict[str, str] = {}

    def first_of(name: str) -> str:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    order: dict[str, int] = {}
    names = [getattr(prompt, by) or prompt.id for prompt in prompts]
    for prompt, name in zip(prompts, names, strict=True):
        parents.setdefault(name, name)
        order.setdefault(name, len(order))
        key = prompt_key(prompt)
        pair = first_of(first_with_key.setdefault(key, name)), first_of(name)
        first, second = sorted(pair, key=order.__getitem__)
        parents[second] = first
    return [first_of(name) for name in names]


def _stratum(prompt: Prompt) -> Stratum:
    return prompt.kind, prompt.category


def _distance_change(missing: dict[Stratum, int], sizes: Counter[Stratum]) -> int:
    """Change of the distance to the target counts if a group of these sizes is held out."""
    return sum(
        abs(missing[stratum] - count) - abs(missing[stratum]) for stratum, count in sizes.items()
    )


def split_by_group(
    rows: Sequence[T], fraction: float, group: Callable[[T], str], order: Callable[[str], float]
) -> tuple[list[T], list[T]]:
    """(training, held-out) rows: `fraction` of the groups, the first by `order`, is held out."""
    names = sorted({group(row) for row in rows}, key=order)
    held_out = set(names[: round(fraction * len(names))])
    return (
        [row for row in rows if group(row) not in held_out],
        [row for row in rows if group(row) in held_out],
    )


def subsample(
    prompts: Sequence[Prompt], count: int | None, seed: int, purpose: str
) -> list[Prompt]:
    """`count` of the prompts, in input order; all if it is None.

    Every prompt has a random key, derived from the seed, the purpose and its id.
    """
    if count is None or count >= len(prompts):
        return list(prompts)

    def draw(prompt: Prompt) -> float:
        return rng(seed, purpose, "prompt", prompt.id).random()

    chosen = {prompt.id for prompt in sorted(prompts, key=draw)[:count]}
    return [prompt for prompt in prompts if prompt.id in chosen]
