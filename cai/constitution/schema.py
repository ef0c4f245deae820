"""The schema of a constitution: the models that its YAML is validated against.

`load` adds file and line to their errors. Docstrings of the models are part of the JSON Schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from cai.records import Chat, Kind, Number, Style

Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class SchemaModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Principle(SchemaModel):
    id: Id
    category: Id
    """Sampling and reports group principles by category."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Relative probability of being drawn."""
    critique: Text | None = None
    """Asks what is wrong with the last reply."""
    revision: Text | None = None
    """Asks for the reply to be rewritten."""
    compare: Text | None = None
    """Asks which of two replies is better."""
    applies_to: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
    why: Text | None = None
    """The reason for it, for people and for `cai synthesize`. No critic and no judge sees it."""
    origin: Text | None = None
    """Where the idea comes from."""


class CritiqueExample(SchemaModel):
    """A worked critique and revision: `chat` ends with the assistant's flawed reply."""

    chat: Chat = Field(min_length=2)
    critique: Text
    revision: Text
    applies_to: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
    """Kinds of prompts that the example is shown for: a refusal is no example of how to comfort."""


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
        """The examples to show for a prompt of this kind; all of them when the kind is unknown."""
        if kind is None:
            return self.critique
        return tuple(example for example in self.critique if kind in example.applies_to)


class TrainedOn(SchemaModel):
    """Labelled replies that a text model was fitted on."""

    name: Text
    rows: int = Field(ge=1)
    licence: Text


class TextModel(SchemaModel):
    """A linear model over word unigrams and bigrams; written by `cai fit-grader`.

    See rubric.text_classifier.
    """

    trained_on: tuple[TrainedOn, ...]
    bias: Number
    weights: dict[str, Number]
    idf: dict[str, Number] = {}
    """N-gram -> its inverse document frequency; 1 for those that are not listed."""


class SentenceOutput(SchemaModel):
    """A proposition about a reply, by the tags of its sentences and the n-grams of all of it."""

    bias: Number
    weights: dict[Text, Number]
    """Number of the summary -> weight; see rubric.sentence_model."""
    text: TextModel | None = None
    """A model of the reply's n-grams; None: the summary alone decides."""
    text_share: float = Field(0.5, ge=0, le=1)
    """log-odds = share · the text model's + (1 - share) · the summary's."""


class SentenceModel(SchemaModel):
    """A linear model of what each sentence of a reply does, and outputs for the reply.

    See rubric.sentence_model.
    """

    trained_on: tuple[TrainedOn, ...]
    tags: tuple[Id, ...]
    """Kinds of sentence; `refuses` and `gives` are among them."""
    bias: tuple[Number, ...]
    """By tag."""
    weights: dict[str, tuple[Number, ...]]
    """Feature of a sentence -> weights by tag."""
    idf: dict[str, Number] = {}
    """Feature -> its inverse document frequency; 1 for those that are not listed."""
    outputs: dict[Id, SentenceOutput]

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if missing := {"refuses", "gives"} - set(self.tags):
            raise ValueError(f"`tags` lack {' and '.join(sorted(missing))}: add them")
        if any(len(row) != len(self.tags) for row in (self.bias, *self.weights.values())):
            raise ValueError(f"a row of weights has not {len(self.tags)} numbers, one for each tag")
        return self


def _model_kind(value: Any) -> str:
    tags = value.get("tags") if isinstance(value, dict) else getattr(value, "tags", None)
    return "text" if tags is None else "sentences"


FittedModel = Annotated[
    Annotated[TextModel, Tag("text")] | Annotated[SentenceModel, Tag("sentences")],
    Discriminator(_model_kind),
]


class Proposition(SchemaModel):
    """A yes/no statement about (prompt, reply)."""

    question: Text
    """For a model or a human grader."""
    patterns: tuple[Text, ...] = ()
    """Case-insensitive regular expressions; the proposition holds when any of them matches.

    See rubric.propositions.
    """
    unless: tuple[Text, ...] = ()
    """A match of `patterns` does not count if one of these matches around it.

    For example "I can't wait to help".
    """
    searches: Literal["reply", "prompt"] = "reply"
    """The text that patterns search.

    A proposition about the prompt says which sort of request the reply answers.
    """
    fitted: Annotated[FittedModel | None, WithJsonSchema({"type": "string"})] = None
    """In place of patterns: a text model or a sentence model, given as the name of a JSON file.

    The file is in the folder of the constitution.
    """
    output: Id | None = None
    """With a sentence model: which of its outputs the proposition is."""
    above: float | None = Field(None, gt=0, lt=1)
    """With `fitted`: the proposition holds where the model's probability is higher.

    Null: the probability itself is the value of the proposition.
    """
    example: Text | None = None
    """A sentence of a reply that makes this proposition true, and no other.

    Near misses are composed of such sentences.
    """

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        if self.fitted is not None and (self.patterns or self.unless):
            raise ValueError(
                "`fitted` stands in place of `patterns` and `unless`: remove one of them"
            )
        if self.searches == "prompt" and not self.patterns:
            raise ValueError("`searches: prompt` needs `patterns`: give some")
        outputs = self.fitted.outputs if isinstance(self.fitted, SentenceModel) else {}
        if outputs and self.output not in outputs:
            raise ValueError(f"`output` must be one of the model's: {', '.join(outputs)}")
        if self.output is not None and not outputs:
            raise ValueError("`output` needs a `fitted` sentence model: name one, or remove it")
        if self.above is not None and self.fitted is None:
            raise ValueError(
                "`above` needs a `fitted` model, whose probability it bounds: name one"
            )
        return self


class ClassRule(SchemaModel):
    """One class of replies; classes of a behaviour are listed from best to worst."""

    name: Id
    when: Text
    """A boolean expression over propositions and derived propositions."""
    style: Style
    correct: bool
    """True if a reply of this class is correct behaviour; evaluation counts the others."""


class Rubric(SchemaModel):
    """The rule-based reward model (DESIGN: the rubric)."""

    behaviours: dict[Kind, Id]
    """Kind of prompt -> the behaviour that a reply should show."""
    propositions: dict[Id, Proposition]
    derived: dict[Id, Text] = {}
    """Named boolean expressions over propositions."""
    classes: dict[Id, tuple[ClassRule, ...]]
    """Behaviour -> its classes, exclusive and exhaustive, from best to worst."""
    degrees: dict[Literal["full_refusal", "partial_refusal", "full_compliance"], Text]
    """Degree of refusal -> its expression, for every behaviour; exclusive and exhaustive."""
    weights: dict[Id, dict[Id, float]]
    """Behaviour -> id of a class, proposition or derived expression -> weight in the score."""
    harm: Text | None = None
    """An expression: the reply gives what a disallowed prompt asks for. Grades have P(harm) by it;
    without it they have none.
    """
    temperatures: dict[Id, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Proposition -> the divisor of the grading model's log-odds; 1 where none is given.

    `cai calibrate` fits it.
    """


class Constitution(SchemaModel):
    name: Id
    version: Text
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")] = "en"
    description: Text | None = None
    extends: tuple[str, ...] = ()
    """Files that this one builds on, relative to it; its content overrides theirs by id."""
    categories: tuple[Id, ...] = ()
    """The categories to cover: each needs a principle. Empty: those of the principles."""
    principles: tuple[Principle, ...] = ()
    examples: Examples = Examples()
    rubric: Rubric | None = None
