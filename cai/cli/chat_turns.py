"""A conversation with several models at once: the same text to all, each with its own turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from cai.errors import UnansweredError
from cai.lm.base import LM, Sample
from cai.records import Chat, Kind, Message
from cai.rubric import CompiledRubric, grade
from cai.seeds import derive

HELP = """\
/kind disallowed|sensitive|benign   what the prompts are, so that replies get class and style
/kind                               unknown again
/system TEXT                        a system message for all; without a text: none
/reset                              forget the conversation
/quit                               end (or Ctrl-D)"""


@dataclass
class Subject:
    """A model, and its turns without the system message."""

    name: str
    lm: LM
    turns: Chat = ()


@dataclass(frozen=True)
class ChatSettings:
    """How replies are sampled."""

    max_tokens: int
    temperature: float
    seed: int


@dataclass
class Conversation:
    """What the person has set, and the subjects."""

    subjects: Sequence[Subject]
    rubric: CompiledRubric | None
    """None: replies are not graded."""
    settings: ChatSettings
    system: str | None = None
    kind: Kind | None = None
    turn: int = field(default=0)

    async def reply(self, subject: Subject, text: str) -> Sample:
        """The subject's reply to `text`. Both are turns from then on; without a reply, neither is.

        Raises:
            BackendError: there is none.
        """
        system = () if self.system is None else (Message(role="system", content=self.system),)
        turns = (*subject.turns, Message(role="user", content=text))
        sample = await subject.lm.sample(
            (*system, *turns),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=derive(self.settings.seed, "chat", self.turn),
        )
        if not sample.text.strip():
            raise UnansweredError("an empty reply")
        subject.turns = (*turns, Message(role="assistant", content=sample.text))
        return sample

    def grade_text(self, text: str, sample: Sample) -> str | None:
        """What the rubric says of a reply, on one line; None without a rubric."""
        if self.rubric is None:
            return None
        graded = grade(
            self.rubric,
            prompt=text,
            response=sample.text,
            kind=self.kind,
            finished=sample.finished,
        )
        degree = (graded.degree or "unknown").replace("_", " ")
        if self.kind is None:
            return f"{degree} (/kind adds class and style)"
        if graded.unscored is not None:
            return f"{degree} ({graded.unscored})"
        return f"class {graded.class_} · style {graded.style} · {degree} · score {graded.score:.2f}"

    def command(self, line: str) -> str:
        """Carry out a line that begins with a slash, and return what to say of it."""
        name, _, rest = line.partition(" ")
        match name, rest.strip():
            case "/help", _:
                return HELP
            case "/reset", "":
                self._reset()
                return "the conversation is forgotten"
            case "/system", text:
                self.system = text or None
                self._reset()
                return "a system message from now on" if text else "no system message from now on"
            case "/kind", "":
                self.kind = None
                return "kind unknown from now on"
            case "/kind", kind if kind in get_args(Kind):
                self.kind = next(known for known in get_args(Kind) if known == kind)
                return f"{kind} prompts from now on"
            case "/kind", kind:
                return f"no kind {kind!r}: {', '.join(get_args(Kind))}"
        return f"no command {line.split(' ')[0]!r}:\n{HELP}"

    def _reset(self) -> None:
        for subject in self.subjects:
            subject.turns = ()
