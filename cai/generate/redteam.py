"""Red-teaming: test prompts written by a model, by category, from seed prompts, without duplicates.

Every requested message has an address (category, number), from which its few-shot examples and its
seed follow, so the order of work changes nothing. The model's texts are stored as they came;
`select_messages` decides afterwards, in order, which become prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from cai import reply_parsing, store, templates
from cai.async_map import map_rows
from cai.data.near_duplicates import NearDuplicates
from cai.errors import UnansweredError
from cai.generate.filters import Gate
from cai.generate.unanswered import ask_again, unanswered_sources
from cai.lm.base import LM
from cai.progress import Progress
from cai.records import Attempt, FrozenModel, Kind, Prompt, chat_of
from cai.seeds import derive, rng


class RedteamConfig(FrozenModel):
    """How many prompts are written, and how different they must be."""

    per_category: int = Field(20, ge=1)
    """Prompts wanted in each category."""
    tries: int = Field(5, ge=1)
    """Most messages requested per prompt wanted."""
    shots: int = Field(4, ge=1)
    """Seed prompts per request: of the category while there are any, then of others."""
    near: float = Field(0.5, gt=0, le=1)
    """Jaccard similarity of word shingles with a seed prompt or an earlier message from which a
    message is rejected."""
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(48, ge=1)
    kind: Kind = "disallowed"


@dataclass(frozen=True)
class MessageRequest:
    """One message to request."""

    category: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.category}/{self.number}"


@dataclass
class MessageSelection:
    """The outcome of the messages."""

    prompts: list[Prompt] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(category, reason or "taken") -> messages."""

    def count(self, category: str) -> int:
        """Prompts of one category."""
        return self.reasons[category, "taken"]


def redteamer(
    seeds: Sequence[Prompt], author: LM, config: RedteamConfig, seed: int
) -> Callable[[MessageRequest], Awaitable[Attempt]]:
    """The step that requests one message."""
    by_category: dict[str, list[Prompt]] = {}
    for prompt in seeds:
        by_category.setdefault(prompt.category or "", []).append(prompt)

    def examples(request: MessageRequest) -> list[Prompt]:
        """Prompts of other categories first, then those of the request's category."""
        stream = rng(seed, "redteam", request.category, request.number)
        same = by_category.get(request.category, [])
        others = [p for p in seeds if p.category != request.category]
        drawn = stream.sample(same, min(config.shots, len(same)))
        missing = config.shots - len(drawn)
        return stream.sample(others, min(missing, len(others))) + drawn

    async def write(request: MessageRequest) -> Attempt:
        shots = [(p.category or "any", p.chat[-1].content) for p in examples(request)]
        try:
            sample = await author.sample(
                templates.redteam_chat(shots, request.category),
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=derive(seed, "redteam", request.category, request.number),
            )
        except UnansweredError as error:
            return Attempt(
                source=request.id, category=request.category, text=None, unanswered=error.reason
            )
        text = reply_parsing.parse_message(sample.text, finished=sample.finished) or ""
        return Attempt(source=request.id, category=request.category, text=text)

    return write


def select_messages(
    attempts: Iterable[Attempt],
    seeds: Sequence[Prompt],
    config: RedteamConfig,
    gate: Gate,
    origin: str,
) -> MessageSelection:
    """The messages that become prompts, in order.

    They pass the gate and are not near duplicates of a seed prompt or an earlier message.
    """
    taken = MessageSelection()
    near_duplicates = NearDuplicates(config.near)
    for prompt in seeds:
        near_duplicates.seen(prompt.chat[-1].content)
    for attempt in attempts:
        result = _to_prompt(attempt, config, gate, origin)
        if isinstance(result, Prompt):
            if taken.count(attempt.category) >= config.per_category:
                result = "more than wanted"
            elif near_duplicates.seen(result.chat[-1].content):
                result = "nearly repeated"
        if isinstance(result, Prompt):
            taken.prompts.append(result)
        reason = "taken" if isinstance(result, Prompt) else result
        taken.reasons[attempt.category, reason] += 1
    return taken


def _to_prompt(attempt: Attempt, config: RedteamConfig, gate: Gate, origin: str) -> Prompt | str:
    """The prompt, or the reason why there is none."""
    if attempt.text is None:
        return "no answer"
    try:
        prompt = Prompt(
            chat=chat_of(("user", attempt.text)),
            kind=config.kind,
            category=attempt.category,
            origin=origin,
        )
    except ValidationError:
        return "empty"
    return gate(prompt, attempt.text) or prompt


def next_requests(
    taken: MessageSelection,
    attempts: Mapping[str, int],
    categories: Sequence[str],
    config: RedteamConfig,
) -> list[MessageRequest]:
    """The next messages to request: as many as each category lacks, within its limit of tries.

    Args:
        attempts: category -> messages requested so far.
    """
    requests: list[MessageRequest] = []
    for category in categories:
        done = attempts.get(category, 0)
        missing = config.per_category - taken.count(category)
        tries_left = config.per_category * config.tries - done
        count = max(0, min(missing, tries_left))
        requests += [MessageRequest(category, number) for number in range(done, done + count)]
    return requests


async def ask_unanswered_again(
    path: Path, seeds: Sequence[Prompt], author: LM, config: RedteamConfig, *, seed: int
) -> int:
    """Request those messages again that stayed without an answer for now.

    The file is another one afterwards: a lock on the old one does not hold it.

    Returns:
        The number of those messages.
    """
    sources = unanswered_sources(path, Attempt, _source)
    if sources:
        requests = [MessageRequest(*_address_of(source)) for source in sorted(sources)]
        step = redteamer(seeds, author, config, seed)
        width = author.max_concurrency
        await ask_again(path, requests, step, Attempt, source=_source, max_concurrency=width)
    return len(sources)


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
) -> MessageSelection:
    """Request messages until each category is full or has no tries left.

    All answers are stored in `path`; after a kill, the same call resumes.
    """
    step = redteamer(seeds, author, config, seed)
    store.truncate_torn_line(path)
    while True:
        rows = sorted(store.read_rows(path, Attempt), key=_address) if path.exists() else []
        taken = select_messages(rows, seeds, config, gate, origin)
        progress(len(taken.prompts), config.per_category * len(categories))
        counts = Counter(row.category for row in rows)
        requests = next_requests(taken, counts, categories, config)
        if not requests:
            return taken
        await map_rows(path, requests, step, Attempt, max_concurrency=author.max_concurrency)


def _source(row: Attempt) -> str:
    return row.source


def _address(row: Attempt) -> tuple[str, int]:
    return _address_of(row.source)


def _address_of(source: str) -> tuple[str, int]:
    """(category, number) of `category/number`."""
    category, _, number = source.rpartition("/")
    return category, int(number)
