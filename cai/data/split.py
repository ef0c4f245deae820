"""Prompts from files, and the split that keeps some of them for evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from cai.data.dedupe import clean, kept
from cai.data.filters import HygieneConfig, Rules, told
from cai.data.readers import prompt_rows
from cai.errors import StoreError
from cai.records import Chat, Prompt, TrainingChat
from cai.seeds import rng

T = TypeVar("T")
EXACT = HygieneConfig()
"""Nothing but exact repetitions goes."""


def read_prompts(
    files: Sequence[Path],
    config: HygieneConfig = EXACT,
    against: Sequence[Path] = (),
    count: Callable[[str], int] = len,
) -> tuple[list[Prompt], Counter[str]]:
    """The prompts of several files that `config` lets through, in order, and how many went for which reason.

    `count`: text -> tokens. `against`: files of evaluation texts.

    Raises:
        StoreError: a file is missing, a row is wrong (file:row), or no prompt is left.
    """
    rules = Rules(config, count, (told(prompt) for file in against for prompt in prompt_rows(file)))

    def read() -> Iterator[Prompt]:
        for file in files:
            yield from prompt_rows(file)

    found = clean(read, config, rules)
    prompts = list(kept(read, rules, found))
    if not prompts:
        dropped = f" (dropped: {', '.join(f'{n} {reason}' for reason, n in found.counts.items())})" if found.counts else ""
        raise StoreError(f"{', '.join(map(str, files)) or 'prompts'}: no prompt in it{dropped}; a run needs at least one")
    return prompts, found.counts


def clean_training(chats: Sequence[Chat], config: HygieneConfig, against: Sequence[Path] = ()) -> tuple[list[Chat], Counter[str]]:
    """Training texts, each a chat that ends with the reply to learn, once more through those filters that a reply may offend.

    Returns those that stay, masked where that is asked for, and how many went for which reason.
    """
    again = config.of_training_rows
    rows = [TrainingChat(chat=chat) for chat in chats]
    rules = Rules(again, len, (told(prompt) for file in against for prompt in prompt_rows(file)))
    found = clean(lambda: iter(rows), again, rules)
    return [row.chat for row in kept(lambda: iter(rows), rules, found)], found.counts


def split(
    prompts: Sequence[Prompt], share: float, seed: int, by: Literal["user", "origin"] = "user"
) -> tuple[list[Prompt], list[Prompt]]:
    """(train, held out), both in input order: of every kind and category, as nearly as it goes, `share` is held out.

    Prompts of one `user` (or one `origin`) go together, so that none is on both sides; a prompt without one goes alone. Which
    side follows from its own name or content and the seed: prompts of other categories have no say in a prompt that goes alone.
    """
    wanted = {stratum: round(share * n) for stratum, n in Counter(map(_stratum, prompts)).items()}
    together: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        together[getattr(prompt, by) or prompt.id].append(prompt)
    held: set[str] = set()
    for name in sorted(together, key=lambda name: rng(seed, "split", name).random()):
        taken = Counter(map(_stratum, together[name]))
        further_off = sum(abs(wanted[stratum] - n) - abs(wanted[stratum]) for stratum, n in taken.items())
        if further_off <= 0:  # one user with many prompts must not keep all others from being held out
            held.update(prompt.id for prompt in together[name])
            for stratum, n in taken.items():
                wanted[stratum] -= n
    return [p for p in prompts if p.id not in held], [p for p in prompts if p.id in held]


def split_by_group(
    rows: Sequence[T], share: float, group: Callable[[T], str], order: Callable[[str], float]
) -> tuple[list[T], list[T]]:
    """(train, held out): `share` of the groups is held out, each whole; those that `order` puts first."""
    names = sorted({group(row) for row in rows}, key=order)
    held = set(names[: round(share * len(names))])
    return [row for row in rows if group(row) not in held], [row for row in rows if group(row) in held]


def _stratum(prompt: Prompt) -> tuple[str | None, str | None]:
    return prompt.kind, prompt.category


def subsample(prompts: Sequence[Prompt], count: int | None, seed: int, purpose: str) -> list[Prompt]:
    """`count` of the prompts for one purpose, in input order; all when it is None. Each is drawn by its own address."""
    if count is None or count >= len(prompts):
        return list(prompts)
    drawn = sorted(prompts, key=lambda prompt: rng(seed, purpose, "prompt", prompt.id).random())[:count]
    chosen = {prompt.id for prompt in drawn}
    return [prompt for prompt in prompts if prompt.id in chosen]
