"""Prompts that other scripts measure with, made by rule from a seed: no model, no data set.

One row in ten repeats one of the fifty before it with a word changed, one in fifty word for word.
Three in a hundred hold a mail address, a phone number or an IP address, four are in German, and
every second user has several rows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from cai.records import Prompt, chat_of

ENDINGS = ("n", "r", "s", "t", "ld", "mp")
NAMES = ["".join(parts).title() for parts in itertools.product("bdfgklmnprst", "aeiou", ENDINGS)]
OPENINGS = (
    "How do I", "Why do we", "Where can I", "When should we", "Do people", "I want to", "Let us",
    "May I", "Can somebody", "We never",
)  # fmt: skip
VERBS = (
    "clean", "repair", "paint", "sell", "borrow", "carry", "describe", "photograph", "measure",
    "cook", "plant", "wrap", "store", "build", "compare", "choose", "return", "decorate", "study",
    "write about",
)  # fmt: skip
ADJECTIVES = (
    "small", "old", "wooden", "green", "heavy", "expensive", "broken", "beautiful", "quiet",
    "foreign", "modern", "dusty", "round", "famous", "cheap", "soft", "bright", "empty", "warm",
    "narrow",
)  # fmt: skip
NOUNS = (
    "garden", "kitchen table", "bicycle", "river", "library", "sweater", "violin", "apple tree",
    "window", "museum", "train ticket", "camera", "recipe", "bridge", "candle", "letter", "boat",
    "market", "mountain", "clock", "blanket", "school", "painting", "teapot", "farm",
)  # fmt: skip
PLACES = (
    "before the winter comes", "near the station", "with a friend of my sister", "in two days",
    "without spending much money", "at the end of the year", "because the weather is bad",
    "while the children are at school", "for the birthday of my uncle", "after a long journey",
)  # fmt: skip
GERMAN = (
    "Wie kann ich", "Warum sollte man", "der Garten meiner Nachbarin", "das alte Haus am Fluss",
    "im Winter ohne viel Geld", "mit einem guten Freund", "reparieren und danach verkaufen",
    "vor dem Ende des Jahres beschreiben",
)  # fmt: skip
PERSONAL = (
    "Write to {name}{i}@example.org about it.", "My number is 212-555-0{i:03d}, call me.",
    "The server is 198.51.100.{j} and it is slow.",
)  # fmt: skip


def name(stream: random.Random) -> str:
    return stream.choice(NAMES) + stream.choice(NAMES).lower()


def sentence(stream: random.Random) -> str:
    """One English sentence of about eighteen words, in which no long run is without a name."""
    names = [name(stream) for _ in range(4)]
    return (
        f"{stream.choice(OPENINGS)} {stream.choice(VERBS)} the {stream.choice(ADJECTIVES)} "
        f"{stream.choice(NOUNS)} of {names[0]} {names[1]} and the {stream.choice(NOUNS)} "
        f"of {names[2]} {stream.choice(PLACES)} with {names[3]}?"
    )


def text(stream: random.Random, i: int) -> str:
    """A row's text: one or two sentences, 27 words on average."""
    if stream.random() < 0.04:
        return " ".join(stream.choices(GERMAN, k=4)) + f", {name(stream)}?"
    sentences = [sentence(stream) for _ in range(stream.randrange(1, 3))]
    if stream.random() < 0.03:
        personal = stream.choice(PERSONAL)
        sentences.append(personal.format(name=name(stream).lower(), i=i % 1000, j=i % 250 + 1))
    return " ".join(sentences)


def rows(count: int, seed: int = 5) -> Iterator[Prompt]:
    """Prompts as the module says, one at a time."""
    stream = random.Random(seed)
    recent: list[str] = []
    for i in range(count):
        drawn = stream.random()
        if recent and drawn < 0.12:
            words = stream.choice(recent).split()
            if drawn < 0.1:
                words[stream.randrange(len(words))] = name(stream)
            content = " ".join(words)
        else:
            content = text(stream, i)
        recent = [*recent[-49:], content]
        user = f"user {int(stream.random() * (count // 2 + 1))}"
        yield Prompt(chat=chat_of(("user", content)), user=user)


def evaluation_texts(count: int) -> list[str]:
    """Texts to keep out of training: each has 200 other words and the text of row 20 i."""
    texts = [prompt.chat[-1].content for prompt in itertools.islice(rows(20 * count), 0, None, 20)]
    stream = random.Random(77)
    return [" ".join([*(name(stream) for _ in range(200)), content]) for content in texts]
