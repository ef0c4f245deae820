"""Texts that explain and apply a constitution: documents about a principle, and dialogues that keep
to it.

Documents are text for `ppo.ptx.files` or a training run of another tool; dialogues are
demonstrations for `sft.extra`. A model that has read why a rule holds may keep to it where no
example was given (arXiv:2605.02087). As in `redteam`, each text has an address (principle, number),
from which its form and its seed follow; all answers are stored as they came, and `select_texts`
decides afterwards, in order, which are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from cai import store
from cai.async_map import map_rows
from cai.constitution.schema import Principle
from cai.data.near_duplicates import NearDuplicates
from cai.data.words import spaced_words
from cai.errors import UnansweredError
from cai.generate.filters import not_degenerate
from cai.generate.unanswered import ask_again, unanswered_sources
from cai.lm.base import LM
from cai.progress import Progress
from cai.records import Chat, FrozenModel, Prompt, SyntheticText, chat_of
from cai.reply_parsing import complete_sentences, parse_message, parse_reply
from cai.seeds import derive
from cai.templates import fill_in

Genre = Literal["documents", "dialogues"]
WRITER = "You write texts about the rules that an AI assistant keeps to."
RULE = "The rule: {rule}"
REASON = "The reason for it: {why}"
DOCUMENTS = {
    "article": "Write a short newspaper article that explains this rule with one example from "
    "daily life.",
    "questions": "Write three questions that people may have about this rule, each with its "
    "answer.",
    "note": "Write a note to a new colleague who works on the assistant: what this rule asks for, "
    "where its limits are, and why it is there.",
    "story": "Write a very short story in which an AI assistant keeps to this rule, although it "
    "would be easier not to.",
}
"""Form of a document -> what is asked for."""
MESSAGE = (
    "Write one message to an AI assistant from somebody in a difficult situation, in general words "
    "and without details, so that this rule matters for the answer. Write only the message."
)
ADVISER = "You are an AI assistant. {rule} {why} Answer in a few kind, clear sentences."


class SynthesisConfig(FrozenModel):
    """How many texts are written, and how different they must be."""

    genre: Genre = "documents"
    per_principle: int = Field(4, ge=1)
    """Texts wanted for each principle."""
    tries: int = Field(3, ge=1)
    """Most texts asked for per text wanted."""
    near: float = Field(0.5, gt=0, le=1)
    """Jaccard similarity of word shingles with an earlier text from which one is rejected."""
    min_words: int = Field(20, ge=1)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(256, ge=1)


@dataclass(frozen=True)
class SynthesisRequest:
    """One text to ask for."""

    principle: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.principle}/{self.number}"


@dataclass
class TextSelection:
    """The outcome of the texts."""

    texts: list[SyntheticText] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(principle, reason or "taken") -> texts."""

    def count(self, principle: str) -> int:
        """Texts of one principle."""
        return self.reasons[principle, "taken"]


def rule_of(principle: Principle) -> str:
    """What the principle asks for, in the words that compare, or else revise, replies by it."""
    return principle.compare or principle.revision or principle.critique or principle.id


def synthesizer(
    principles: Mapping[str, Principle], author: LM, config: SynthesisConfig, seed: int
) -> Callable[[SynthesisRequest], Awaitable[SyntheticText]]:
    """The step that asks for one text: of a dialogue, the user's message and then the reply."""
    forms = list(DOCUMENTS)

    async def ask(chat: Chat, request: SynthesisRequest, part: str) -> tuple[str, bool]:
        stream = derive(seed, "synthesize", config.genre, request.principle, request.number, part)
        sample = await author.sample(
            chat, max_tokens=config.max_tokens, temperature=config.temperature, seed=stream
        )
        return sample.text, sample.finished

    async def document(request: SynthesisRequest) -> SyntheticText:
        form = forms[request.number % len(forms)]
        chat = document_chat(principles[request.principle], form)
        text, finished = await ask(chat, request, "document")
        return _row(request, form, parse_reply(text, finished=finished))

    async def dialogue(request: SynthesisRequest) -> SyntheticText:
        principle = principles[request.principle]
        text, finished = await ask(message_chat(principle), request, "message")
        message = parse_message(text, finished=finished)
        if message is None:
            return _row(request, "dialogue", None)
        text, finished = await ask(adviser_chat(principle, message), request, "reply")
        reply = complete_sentences(text) if not finished else text
        return _row(request, "dialogue", reply.strip() or None, message)

    async def write(request: SynthesisRequest) -> SyntheticText:
        step = document if config.genre == "documents" else dialogue
        try:
            return await step(request)
        except UnansweredError as error:
            return _row(request, config.genre, None, unanswered=error.reason)

    return write


def _row(
    request: SynthesisRequest,
    form: str,
    text: str | None,
    message: str | None = None,
    unanswered: str | None = None,
) -> SyntheticText:
    return SyntheticText(
        source=request.id,
        principle=request.principle,
        form=form,
        message=message,
        text=text,
        unanswered=unanswered,
    )


def document_chat(principle: Principle, form: str) -> Chat:
    """Asks for one document about a principle."""
    return chat_of(("system", WRITER), ("user", f"{_stated(principle)}\n\n{DOCUMENTS[form]}"))


def message_chat(principle: Principle) -> Chat:
    """Asks for a user's message to which a principle matters."""
    return chat_of(("system", WRITER), ("user", f"{_stated(principle)}\n\n{MESSAGE}"))


def adviser_chat(principle: Principle, message: str) -> Chat:
    """Asks for the reply to a message. The system turn names the principle; the row does not."""
    system = fill_in(ADVISER, rule=rule_of(principle), why=principle.why or "")
    return chat_of(("system", " ".join(system.split())), ("user", message))


def _stated(principle: Principle) -> str:
    lines = [fill_in(RULE, rule=rule_of(principle))]
    if principle.why:
        lines.append(fill_in(REASON, why=principle.why))
    return "\n".join(lines)


# ---- selection ----


def select_texts(rows: Iterable[SyntheticText], config: SynthesisConfig) -> TextSelection:
    """The texts to use, in order: long enough, no repetition in themselves, and no near duplicates
    of earlier ones.
    """
    taken = TextSelection()
    near_duplicates = NearDuplicates(config.near)
    for row in rows:
        reason = _reason_against(row, config)
        if reason is None and taken.count(row.principle) >= config.per_principle:
            reason = "more than wanted"
        if reason is None and near_duplicates.seen(f"{row.message or ''}\n{row.text}"):
            reason = "nearly repeated"
        if reason is None:
            taken.texts.append(row)
        taken.reasons[row.principle, reason or "taken"] += 1
    return taken


def _reason_against(row: SyntheticText, config: SynthesisConfig) -> str | None:
    if row.text is None:
        return "no answer" if row.unanswered else "empty"
    if len(spaced_words(row.text)) < config.min_words:
        return "too short"
    return not_degenerate(Prompt(chat=chat_of(("user", row.principle))), row.text)


def next_requests(
    taken: TextSelection,
    counts: Mapping[str, int],
    principles: Iterable[str],
    config: SynthesisConfig,
) -> list[SynthesisRequest]:
    """As many texts as each principle lacks, within its limit of tries.

    Args:
        counts: principle -> texts asked for so far.
    """
    requests: list[SynthesisRequest] = []
    for principle in principles:
        done = counts.get(principle, 0)
        missing = config.per_principle - taken.count(principle)
        count = max(0, min(missing, config.per_principle * config.tries - done))
        requests += [SynthesisRequest(principle, number) for number in range(done, done + count)]
    return requests


async def write_texts(
    path: Path,
    principles: Sequence[Principle],
    author: LM,
    config: SynthesisConfig,
    *,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> TextSelection:
    """Ask for texts until each principle has enough, or no tries left.

    All answers are stored in `path`; after a kill, the same call resumes.
    """
    by_id = {principle.id: principle for principle in principles}
    step = synthesizer(by_id, author, config, seed)
    store.truncate_torn_line(path)
    while True:
        rows = sorted(store.read_rows(path, SyntheticText), key=_address) if path.exists() else []
        taken = select_texts(rows, config)
        progress(len(taken.texts), config.per_principle * len(by_id))
        requests = next_requests(taken, Counter(row.principle for row in rows), by_id, config)
        if not requests:
            return taken
        width = author.max_concurrency
        await map_rows(path, requests, step, SyntheticText, max_concurrency=width)


async def ask_unanswered_again(
    path: Path, principles: Sequence[Principle], author: LM, config: SynthesisConfig, *, seed: int
) -> int:
    """Ask for those texts again that stayed without an answer for now; their number.

    The file is another one afterwards: a lock on the old one does not hold it.
    """
    sources = unanswered_sources(path, SyntheticText, _source)
    if sources:
        requests = [SynthesisRequest(*_split(source)) for source in sorted(sources)]
        step = synthesizer({p.id: p for p in principles}, author, config, seed)
        width = author.max_concurrency
        await ask_again(path, requests, step, SyntheticText, source=_source, max_concurrency=width)
    return len(sources)


def _source(row: SyntheticText) -> str:
    return row.source


def _address(row: SyntheticText) -> tuple[str, int]:
    return _split(row.source)


def _split(source: str) -> tuple[str, int]:
    principle, _, number = source.rpartition("/")
    return principle, int(number)
