"""Prompts from files, and the split that keeps some of them for evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cai.errors import StoreError
from cai.hygiene.clean import clean, kept
from cai.hygiene.inputs import prompt_rows
from cai.hygiene.rules import HygieneConfig, Rules, told
from cai.records import Prompt
from cai.seeds import rng

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


def split(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(train, held out), both in input order: of every kind and category, `share` (rounded) is held out.

    Which ones follows from each prompt's own content and the seed; prompts of other categories have no say. Prompts of one
    `user` in a category go together, so no user is on both sides of it.
    """
    groups: dict[tuple[str | None, str | None], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for prompt in prompts:
        groups[prompt.kind, prompt.category][prompt.user or prompt.id].append(prompt.id)
    held: set[str] = set()
    for members in groups.values():
        wanted = round(share * sum(map(len, members.values())))
        for user in sorted(members, key=lambda user: rng(seed, "split", user).random()):
            if len(members[user]) <= wanted:  # one user with many prompts must not keep all others from being held out
                held.update(members[user])
                wanted -= len(members[user])
    return [p for p in prompts if p.id not in held], [p for p in prompts if p.id in held]


def some(prompts: Sequence[Prompt], count: int | None, seed: int, purpose: str) -> list[Prompt]:
    """`count` of the prompts for one purpose, in input order; all when it is None. Each is drawn by its own address."""
    if count is None or count >= len(prompts):
        return list(prompts)
    drawn = sorted(prompts, key=lambda prompt: rng(seed, purpose, "prompt", prompt.id).random())[:count]
    chosen = {prompt.id for prompt in drawn}
    return [prompt for prompt in prompts if prompt.id in chosen]
