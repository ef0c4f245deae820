"""Prompts that test a model, written by a model: by category, from seed prompts, each unlike those that are there already.

Every message asked for has an address (category, number) from which its few-shots and its seed follow, so the order of work
changes nothing. What the model wrote is kept as it came; which of it is taken is decided afterwards, in order, by `take`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from cai import store, templates
from cai.async_map import map_rows
from cai.data.near_duplicates import NearDuplicates
from cai.errors import UnansweredError
from cai.generate.filters import Gate
from cai.lm.base import LM
from cai.progress import Progress
from cai.records import Attempt, FrozenModel, Kind, Prompt, chat_of
from cai.seeds import derive, rng


class RedteamConfig(FrozenModel):
    """How many prompts are written, and how different they must be."""

    per_category: int = Field(20, ge=1)
    """Prompts wanted in each category."""
    tries: int = Field(5, ge=1)
    """Messages asked for at most, per prompt wanted."""
    shots: int = Field(4, ge=1)
    """Seed prompts shown each time: of the category while it has any, then of others."""
    near: float = Field(0.5, gt=0, le=1)
    """As alike as this to a seed prompt or an earlier one (Jaccard of word shingles), and a message is not taken."""
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(48, ge=1)
    kind: Kind = "disallowed"


@dataclass(frozen=True)
class Wanted:
    """One message to ask for."""

    category: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.category}/{self.number}"


def redteamer(seeds: Sequence[Prompt], author: LM, config: RedteamConfig, seed: int) -> Callable[[Wanted], Awaitable[Attempt]]:
    """The step that asks for one message."""
    by_category: dict[str, list[Prompt]] = {}
    for prompt in seeds:
        by_category.setdefault(prompt.category or "", []).append(prompt)

    def shown(want: Wanted) -> list[Prompt]:
        drawn = rng(seed, "redteam", want.category, want.number)
        own = by_category.get(want.category, [])
        others = [p for p in seeds if p.category != want.category]
        near = drawn.sample(own, min(config.shots, len(own)))
        return drawn.sample(others, min(config.shots - len(near), len(others))) + near

    async def ask(want: Wanted) -> Attempt:
        shots = [(p.category or "any", p.chat[-1].content) for p in shown(want)]
        try:
            said = await author.sample(
                templates.redteam_chat(shots, want.category),
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=derive(seed, "redteam", want.category, want.number),
            )
        except UnansweredError as error:
            return Attempt(source=want.id, category=want.category, text=None, unanswered=str(error))
        return Attempt(
            source=want.id, category=want.category, text=templates.parse_message(said.text, finished=said.finished) or ""
        )

    return ask


@dataclass
class Taken:
    """What became of the messages."""

    prompts: list[Prompt] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(category, reason or "taken") -> messages."""

    def count(self, category: str) -> int:
        return self.reasons[category, "taken"]


def take(attempts: Iterable[Attempt], seeds: Sequence[Prompt], config: RedteamConfig, gate: Gate, origin: str) -> Taken:
    """The messages that become prompts, in order: whole, let through by the gate, and unlike all before them."""
    found, seen = Taken(), NearDuplicates(config.near)
    for known in seeds:
        seen.seen(known.chat[-1].content)
    for attempt in attempts:
        reason, prompt = _judge(attempt, config, gate, origin)
        if prompt is not None and found.count(attempt.category) >= config.per_category:
            reason, prompt = "more than wanted", None
        if prompt is not None and seen.seen(prompt.chat[-1].content):
            reason, prompt = "nearly repeated", None
        found.reasons[attempt.category, reason or "taken"] += 1
        if prompt is not None:
            found.prompts.append(prompt)
    return found


def _judge(attempt: Attempt, config: RedteamConfig, gate: Gate, origin: str) -> tuple[str | None, Prompt | None]:
    if attempt.text is None:
        return "no answer", None
    try:
        prompt = Prompt(chat=chat_of(("user", attempt.text)), kind=config.kind, category=attempt.category, origin=origin)
    except ValidationError:
        return "empty", None
    reason = gate(prompt, attempt.text)
    return (reason, None) if reason else (None, prompt)


def still_wanted(found: Taken, asked: Mapping[str, int], categories: Sequence[str], config: RedteamConfig) -> list[Wanted]:
    """The next messages to ask for: as many as each category is short of; none when it is full or tried often enough."""
    wanted = []
    for category in categories:
        done = asked.get(category, 0)
        short = min(config.per_category - found.count(category), config.per_category * config.tries - done)
        wanted += [Wanted(category, number) for number in range(done, done + max(0, short))]
    return wanted


async def write_messages(
    path: Path,
    categories: Sequence[str],
    seeds: Sequence[Prompt],
    author: LM,
    config: RedteamConfig,
    gate: Gate,
    *,
    seed: int,
    origin: str,
    progress: Progress = lambda done, total: None,
) -> Taken:
    """Ask, keeping every answer in `path`, until each category is full or tried often enough. Kill it, run it again."""
    step = redteamer(seeds, author, config, seed)
    store.truncate_torn_line(path)
    while True:
        rows = sorted(store.read(path, Attempt), key=lambda row: (row.category, _number(row))) if path.exists() else []
        found = take(rows, seeds, config, gate, origin)
        progress(len(found.prompts), config.per_category * len(categories))
        more = still_wanted(found, Counter(row.category for row in rows), categories, config)
        if not more:
            return found
        await map_rows(path, more, step, Attempt, max_concurrency=author.max_concurrency)


def _number(row: Attempt) -> int:
    return int(row.source.rpartition("/")[2])
