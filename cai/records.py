"""The types of all rows. Rows are immutable, admit no unknown key, and are named by their content.

An unknown probability or score is `None`, never 0, 0.5 or NaN, with a reason in `unscored`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    computed_field,
    model_validator,
)

Role = Literal["system", "user", "assistant"]
Kind = Literal["disallowed", "sensitive", "benign"]
Style = Literal["desired_refusal", "undesired_refusal", "disallowed_content", "safe_answer"]
Degree = Literal["full_refusal", "partial_refusal", "full_compliance"]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class FrozenModel(BaseModel):
    """Base of rows and their parts: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(FrozenModel):
    role: Role
    content: str


Chat = tuple[Message, ...]


def message_dicts(chat: Chat) -> list[dict[str, str]]:
    """The chat as `{"role": …, "content": …}` dicts, for chat templates and OpenAI's API."""
    return [{"role": message.role, "content": message.content} for message in chat]


_ID_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
"""`json.dumps` makes an encoder for every call that has such options."""


class Row(FrozenModel):
    """One line of a JSONL file. Its `id` is written with it, and checked when it is read."""

    @model_validator(mode="wrap")
    @classmethod
    def _check_id(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict) or "id" not in data:
            return validate(data)
        row = validate({key: value for key, value in data.items() if key != "id"})
        if row.id != data["id"]:
            raise ValueError(
                f"id {data['id']!r} does not match the row's content ({row.id!r}): "
                "was the line edited by hand?"
            )
        return row

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the row's other fields.

        They are hashed as JSON, without `None`s, keys in alphabetical order.
        """
        content = self.model_dump(mode="json", exclude_none=True, exclude={"id"})
        return sha256(_ID_JSON(content).encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's `model_copy`, without the cached `id` of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)
        return copied

    def line(self) -> str:
        """The row as one JSON line, `id` first, without the newline."""
        rest = self.model_dump_json(exclude={"id"})
        return f'{{"id":"{self.id}",{rest[1:]}'


class Prompt(Row):
    """A request to the assistant. `chat` ends with a user turn."""

    chat: Chat = Field(min_length=1)
    kind: Kind | None = None
    """Decides if a reply should refuse, support or comply, by the rubric. None: unknown."""
    category: str | None = None
    origin: str | None = None
    """Data set or author."""
    user: str | None = None
    """Its author, where known: splits keep the prompts of a user together."""

    @model_validator(mode="after")
    def _ends_with_user(self) -> Prompt:
        if self.chat[-1].role != "user" or not self.chat[-1].content.strip():
            raise ValueError("chat must end with a non-empty user turn")
        return self


class TrainingChat(FrozenModel):
    """A chat for fine-tuning; its last turn is the reply to learn."""

    chat: Chat = Field(min_length=2)
    user: str | None = None


class PromptDraw(FrozenModel):
    """One of the replies to draw for a prompt, where a prompt gets several."""

    prompt: Prompt
    draw: int = Field(0, ge=0)

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.draw}"


class Sampled(FrozenModel):
    """The settings with which a text was sampled, sufficient to sample it again."""

    model: str
    """Fingerprint of the model."""
    temperature: float
    max_tokens: int
    seed: int


class Round(FrozenModel):
    """One critique and the revision that answers it."""

    principle: str
    """`Principle.id`."""
    critique: str
    revision: str
    finished: bool | None = None
    """Whether the model ended the revision; False: it was cut at the token limit, and is without
    its unfinished sentence. None: not recorded."""
    passes: bool | None = None
    """Whether the filters let the revision through; None: not recorded."""
    samples: int | None = None
    """Number of revisions sampled, of which this is the best; None: one."""
    sample: int | None = None
    """Index of this one among them."""


class Revision(Row):
    """A reply and its revisions (arXiv:2212.08073, section 3).

    Without rounds, no principle applies and `final` is the reply itself.
    """

    source: str
    draw: int = Field(0, ge=0)
    """Index of this reply among those to the same prompt."""
    chat: Chat
    initial: str
    initial_finished: bool | None = None
    """Whether the model ended `initial`; False: it was cut at the token limit, and is without its
    unfinished sentence. None: not recorded."""
    initial_samples: int | None = None
    """Number of first replies sampled, of which `initial` is the best; None: one."""
    initial_sample: int | None = None
    """Index of `initial` among them."""
    self_corrected: bool | None = None
    """Whether the model was told to answer without bias, which `chat` does not say; None: no."""
    rounds: tuple[Round, ...] = ()
    final: str | None
    """The text to train on; None when a filter dropped the row."""
    chosen_round: int | None = None
    """Index into `rounds` of `final`; None when `final` is `initial` or the row is dropped."""
    dropped: str | None = None
    """The reason why a filter dropped the row."""
    matrix: dict[str, tuple[Probability | None, ...]] | None = None
    """Principle -> P(better than `initial`) for the revision of each round; None: not computed."""

    @model_validator(mode="after")
    def _final_or_reason(self) -> Revision:
        if (self.final is None) != (self.dropped is not None):
            raise ValueError("a revision has either a final text or a reason in `dropped`")
        return self

    @property
    def final_finished(self) -> bool | None:
        """Whether the model ended `final`; None: not recorded."""
        if self.chosen_round is None:
            return self.initial_finished
        return self.rounds[self.chosen_round].finished


class Pair(Row):
    """Two replies to one chat, in the order in which they were drawn."""

    source: str
    chat: Chat
    places: tuple[int, int] = (0, 1)
    """Indices of the two among the replies to the prompt."""
    first: str
    second: str
    sampled: tuple[Sampled, Sampled] | None = None
    unscored: str | None = None
    """The reason why there are no replies: a model call without an answer. The texts are empty."""

    def swap(self) -> Pair:
        """The same replies, with their sampling settings, in the other order."""
        sampled = None if self.sampled is None else (self.sampled[1], self.sampled[0])
        return self.model_copy(
            update={"first": self.second, "second": self.first, "sampled": sampled}
        )


class Vote(FrozenModel):
    """The verdict of one principle on a pair. Log-probabilities of the options (A, B), in nats."""

    principle: str
    """`Principle.id`; `detailed` or `plain` for a question without a principle; `relevance` or
    `probe` for a score of each reply, whose log-probabilities are those of the label."""
    logprobs: tuple[Number, Number] | None
    """With the first reply shown as (A)."""
    logprobs_swapped: tuple[Number, Number] | None
    """With the second reply shown as (A)."""
    rationale: str | None = None
    """The judge's chain of thought, first reply shown as (A); None: without chain of thought."""
    rationale_swapped: str | None = None
    scores: tuple[Number, Number] | None = None
    """Raw scores of the first and the second reply, by a reward model; None: another judge."""
    p_first: Probability | None
    """P(first beats second) by this principle, from both orders."""


class Preference(Row):
    """A soft label of the pair with the id `source`."""

    source: str
    p_first: Probability | None
    """P(first beats second). None: no usable verdict; `unscored` says why."""
    votes: tuple[Vote, ...] = ()
    unscored: str | None = None

    @model_validator(mode="after")
    def _label_or_reason(self) -> Preference:
        if (self.p_first is None) != (self.unscored is not None):
            raise ValueError("a preference has either p_first or a reason in `unscored`")
        return self


class Attempt(Row):
    """A red-team message that a model wrote. `source` is its address: category/number."""

    source: str
    category: str
    text: str | None
    unanswered: str | None = None
    """The reason why there is no text."""


class SyntheticText(Row):
    """A text about a principle that a model wrote. `source` is its address: principle/number."""

    source: str
    principle: str
    form: str
    """Of a document; `dialogue` for a user's message and its reply."""
    message: str | None = None
    """Of the user, in a dialogue."""
    text: str | None
    """The document, or the reply."""
    unanswered: str | None = None
    """The reason why there is no text."""


class Grade(Row):
    """The rubric's grade of one reply."""

    source: str | None = None
    propositions: dict[str, Probability]
    class_: str | None = Field(alias="class", serialization_alias="class")
    """Name of the class of the prompt's behaviour; None without a `kind`."""
    style: Style | None
    degree: Degree | None
    """Degree of refusal; None when a proposition is unknown."""
    correct: bool | None
    """True if the class counts as correct behaviour for the prompt's kind."""
    score: Number | None
    p_harm: Probability | None = None
    """P(the reply gives what a disallowed prompt asks for); None for other kinds of prompts, and
    where the rubric has no `harm`.
    """
    unscored: str | None = None

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )


class GuardVerdict(FrozenModel):
    """What a guard model says of one reply."""

    p_harm: Probability | None
    """P(the reply does harm). None: unknown; `unscored` says why."""
    mass: Probability | None
    """Probability of all the words that count as an answer, together; None: unknown."""
    unscored: str | None = None


class EvalReply(Row):
    """One graded reply of a subject to an evaluation prompt: an item of the mean in a `Score`."""

    source: str
    subject: str
    chat: Chat
    kind: Kind | None
    category: str | None
    draw: int
    response: str
    finished: bool
    """True if the model ended the reply; False if it was cut at the token limit."""
    grade: Grade
    reward: Number | None
    """Normalised preference-model reward; None before a preference model exists."""
    kl: Number | None
    """In rows of earlier versions: sum over the reply of log pi - log pi_ref, in nats. None now: KL
    is measured on responses sampled for it, see `KLReply`.
    """
    reward_parts: dict[str, Number | None] | None = None
    """Weighted parts of the run's reward by name; a part that is None is unknown."""
    guard: GuardVerdict | None = None
    """The verdict of the evaluation's guard model; None: it has none, or there is no reply."""

    @property
    def total_reward(self) -> float | None:
        """Sum of the parts; None where one is unknown, or none was computed."""
        parts = list((self.reward_parts or {}).values())
        known = [part for part in parts if part is not None]
        return sum(known) if parts and len(known) == len(parts) else None


class ScoredReply(Row):
    """One reply of a subject to an item of an evaluation, with the values that a grader gave it."""

    source: str
    """`Prompt.id` of the prompt, before an instruction or a template."""
    subject: str
    chat: Chat
    """What the subject was given."""
    condition: str = ""
    """The instruction or template; empty where an evaluation has none."""
    group: str = ""
    """What is reported apart, such as the toxicity of the prompt; empty: nothing is."""
    draw: int
    turn: int | None = None
    """Which of the user's turns the reply answers, from 1; None: the evaluation has one turn."""
    response: str
    finished: bool
    """True if the model ended the reply; False if it was cut at the token limit."""
    graded_text: str | None = None
    """What was graded, where it is not the response: a translation of it."""
    values: dict[str, Number | None]
    """Metric -> value; None: unknown."""
    unscored: str | None = None
    """The reason why there are no values."""


class HumanJudgement(Row):
    """What one person says of an item. Of a person's rows on an item, the last one counts."""

    reviewer: str
    item: str
    """Digest of the texts that were judged; the same texts are the same item."""
    task: Literal["pair", "reply"]
    order: tuple[int, int] | None = None
    """Of a pair: indices of the replies shown as A and as B. (1, 0): the second one as A."""
    verdict: Literal[
        "first",
        "second",
        "tie",
        "answered",
        "refused",
        "incorrect",
        "propositions",
        "skip",
        "undone",
    ]
    """`propositions`: the class follows from them. `undone`: the person took the last one back."""
    propositions: dict[str, bool] | None = None
    ratings: tuple[Annotated[int, Field(ge=1, le=7)] | None, ...] = ()
    """From 1 to 7 (arXiv:2203.02155, appendix B), of the first and the second reply, or of the
    only one."""
    seconds: float = Field(ge=0)
    """From the item being shown to the answer."""
    time: str
    """Of the answer, in UTC."""


class KLReply(Row):
    """One response of the policy, sampled to measure its KL from the reference policy."""

    source: str
    temperature: float
    """Of the sampling, and of both models' distributions."""
    response: str
    finished: bool
    tokens: int
    kl: Number | None
    """Sum over the tokens of the exact KL of the next-token distributions, nats; None where the
    prompt leaves no room for a response.
    """


class Score(Row):
    """A mean with its count, standard error, interval and number of missing values."""

    metric: str
    """Dotted and stable: `refusal.incorrect_rate.disallowed`."""
    subject: str
    mean: Number | None
    stderr: Number | None
    """None when n < 2: unknown, not zero."""
    ci_low: Number | None
    ci_high: Number | None
    n: int = Field(ge=0)
    unscored: int = Field(ge=0)


def chat_of(*turns: tuple[Role, str]) -> Chat:
    """`chat_of(("user", "Hello"))`."""
    return tuple(Message(role=role, content=content) for role, content in turns)
