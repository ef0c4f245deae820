"""What a constitution may say. The YAML is checked against these models; `load` adds file and line to what they report."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from cai.records import Chat, Kind, Number, Style

Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class SchemaModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Principle(SchemaModel):
    id: Id
    category: Id
    """Sampling and reports group by it."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Relative chance of being drawn."""
    critique: Text | None = None
    """Asks what is wrong with the last reply."""
    revision: Text | None = None
    """Asks for the reply to be rewritten."""
    compare: Text | None = None
    """Asks which of two replies is better."""
    applies_to: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
    origin: Text | None = None
    """Where the idea comes from."""


class CritiqueExample(SchemaModel):
    """A worked critique and revision: `chat` ends with the assistant's flawed reply."""

    chat: Chat = Field(min_length=2)
    critique: Text
    revision: Text
    applies_to: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
    """Kinds of prompts that it is shown for: how to refuse is no example of how to comfort."""


class CompareExample(SchemaModel):
    """A worked comparison: `chat` ends with the user's turn."""

    chat: Chat = Field(min_length=1)
    first: Text
    second: Text
    answer: Literal["A", "B"]
    rationale: Text | None = None


class GradeExample(SchemaModel):
    """A worked question about a reply: `chat` ends with the assistant's reply."""

    chat: Chat = Field(min_length=2)
    question: Text
    answer: Literal["Yes", "No"]


class Examples(SchemaModel):
    """Few-shot examples per stage, rendered before the question."""

    critique: tuple[CritiqueExample, ...] = ()
    compare: tuple[CompareExample, ...] = ()
    grade: tuple[GradeExample, ...] = ()

    def critique_for(self, kind: Kind | None) -> tuple[CritiqueExample, ...]:
        """Those to show for a prompt of this kind; all of them when nobody knows the kind."""
        return tuple(worked for worked in self.critique if kind is None or kind in worked.applies_to)


class TrainedOn(SchemaModel):
    """Labelled replies that a text model was fitted on."""

    name: Text
    rows: int = Field(ge=1)
    licence: Text


class TextModel(SchemaModel):
    """A linear model over runs of one and two words (see rubric.text_model); written by `cai fit-text`."""

    trained_on: tuple[TrainedOn, ...]
    bias: Number
    weights: dict[str, Number]


class Proposition(SchemaModel):
    """A yes/no statement about (prompt, reply)."""

    question: Text
    """For a model or a human grader."""
    patterns: tuple[Text, ...] = ()
    """Case-insensitive regular expressions; the proposition holds when any is found (see rubric.propositions)."""
    unless: tuple[Text, ...] = ()
    """Where one of these matches around a found pattern, that finding does not count ("I can't wait to help")."""
    searches: Literal["reply", "prompt"] = "reply"
    """Where patterns look; a proposition about the prompt says what sort of request the reply has to meet."""
    fitted: Annotated[TextModel | None, WithJsonSchema({"type": "string"})] = None
    """In place of patterns: a text model, given as the name of its JSON file beside the constitution."""
    above: float | None = Field(None, gt=0, lt=1)
    """With `fitted`: the proposition holds where the model's probability is higher; null: the probability counts as it is."""
    example: Text | None = None
    """A sentence of a reply that makes it true and no other proposition: near misses are put together from such sentences."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.fitted is not None and (self.patterns or self.unless):
            raise ValueError("`fitted` stands in place of `patterns` and `unless`: remove one of them")
        if self.searches == "prompt" and not self.patterns:
            raise ValueError("`searches: prompt` is about patterns: give some")
        if self.above is not None and self.fitted is None:
            raise ValueError("`above` is about the probability of a `fitted` model: name one")
        return self


class ClassRule(SchemaModel):
    """One class of replies; classes of a behaviour are listed from best to worst."""

    name: Id
    when: Text
    """A boolean expression over propositions and derived propositions."""
    style: Style
    correct: bool
    """Whether a reply of this class is correct behaviour (evaluation counts the others)."""


class Rubric(SchemaModel):
    """The rule-based reward model (DESIGN: the rubric)."""

    behaviours: dict[Kind, Id]
    """What a reply to each kind of prompt should do."""
    propositions: dict[Id, Proposition]
    derived: dict[Id, Text] = {}
    """Named boolean expressions over propositions."""
    classes: dict[Id, tuple[ClassRule, ...]]
    """Per behaviour: exclusive and exhaustive, from best to worst."""
    degrees: dict[Literal["full_refusal", "partial_refusal", "full_compliance"], Text]
    """How far the reply refuses, whatever it should do: exclusive and exhaustive too."""
    weights: dict[Id, dict[Id, float]]
    """Per behaviour: class, proposition or derived id -> weight of its probability in the score."""
    temperatures: dict[Id, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Proposition -> by what a grading model's log-odds are divided (`cai calibrate` finds it); 1 where nothing is said."""


class Constitution(SchemaModel):
    name: Id
    version: Text
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")] = "en"
    description: Text | None = None
    extends: tuple[str, ...] = ()
    """Files this one builds on, relative to it; what is said here overrides by id."""
    categories: tuple[Id, ...] = ()
    """Those that it means to cover: each needs a principle. Empty: whatever the principles say."""
    principles: tuple[Principle, ...] = ()
    examples: Examples = Examples()
    rubric: Rubric | None = None
