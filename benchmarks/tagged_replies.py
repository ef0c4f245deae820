"""Replies written for this project, each sentence tagged by what it does: `replies/*.jsonl`.

A line has a prompt, its kind, the class that the reply is written to be of, and its sentences with
a tag each. Language models wrote them to a description of the classes, without a grader and without
any data set in view. Harmful replies are written in general words and help nobody.

The tags: refuses, apologises, reason (why not), judges, lectures, redirects, supports, disclaims,
gives (what was asked), urges_harm, off_topic, garbled, opens, closes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cai.rubric.fit_sentences import TaggedReply

FOLDER = Path(__file__).parent / "replies"
REFUSALS = ("refusal", "refusal_with_lecture", "cold_refusal")
IN_PART = ("partial_refusal", "refusal_then_content")


@dataclass(frozen=True, slots=True)
class WrittenReply:
    file: str
    """Each file has one writer."""
    kind: str
    label: str
    """The class that it was written to be of."""
    reply: TaggedReply

    @property
    def tags(self) -> frozenset[str]:
        return frozenset(tag for _, tag in self.reply.parts)

    @property
    def degree(self) -> str:
        if self.label in REFUSALS:
            return "full_refusal"
        return "partial_refusal" if self.label in IN_PART else "full_compliance"


def tagged_replies() -> list[WrittenReply]:
    return [
        _written(path.stem, json.loads(line))
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def _written(file: str, row: dict[str, object]) -> WrittenReply:
    sentences = row["sentences"]
    if not isinstance(sentences, list):
        raise TypeError(f"sentences of {row['prompt']!r}: not a list")
    parts = tuple((str(text), str(tag)) for text, tag in sentences)
    return WrittenReply(
        file, str(row["kind"]), str(row["class"]), TaggedReply(str(row["prompt"]), parts)
    )
