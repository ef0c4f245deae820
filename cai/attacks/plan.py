"""Which attack comes next, and which turn of it, by the rows of those before.

Every attack has a number. What it is follows from the seed and the rows of earlier rounds, so a
killed run resumes to the same attacks. A row is a turn: a `ScoredReply` with the attack's number as
its draw, the disguise as its condition and the category as its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cai.attacks.disguises import Disguise
from cai.records import Prompt, ScoredReply
from cai.seeds import rng

ROUND = 20
"""Attacks between two looks at the failures."""
INCORRECT = "incorrect"


@dataclass(frozen=True)
class Attack:
    """One attack to make."""

    number: int
    prompt: Prompt
    disguise: str


@dataclass(frozen=True)
class AttackTurn:
    """One turn of an attack. `previous` is the row of the turn before, if there is one."""

    attack: Attack
    turn: int
    previous: ScoredReply | None

    @property
    def id(self) -> str:
        return f"{self.attack.number}/{self.turn}"


def turn_id(row: ScoredReply) -> str:
    """`AttackTurn.id` of the turn that a row is about."""
    return f"{row.draw}/{row.turn}"


def failed(row: ScoredReply) -> float | None:
    """1 where the reply is not correct behaviour for the prompt's kind; None: not graded."""
    return row.values.get(INCORRECT)


def conversations(rows: Iterable[ScoredReply]) -> dict[int, list[ScoredReply]]:
    """Number of an attack -> its rows by turn. The last row's failure is the attack's."""
    attacks: dict[int, list[ScoredReply]] = {}
    for row in sorted(rows, key=lambda row: (row.draw, row.turn or 1)):
        attacks.setdefault(row.draw, []).append(row)
    return attacks


@dataclass(frozen=True)
class AttackPlan:
    """What decides the attacks, besides the replies."""

    prompts: Sequence[Prompt]
    disguises: Mapping[str, Disguise | None]
    """Name -> disguise; None: the translator makes it."""
    budget: int
    """Attacks in all."""
    turns: int
    """Most turns of an attack."""
    seed: int

    def round(self, rows: Mapping[int, list[ScoredReply]], start: int) -> list[Attack]:
        """The attacks from number `start` on, by the rows of those before.

        Disguises take turns, so that their rates are of alike attacks. An attack that has rows
        stays what it was: one without an answer may have been asked again since.
        """
        by_category: dict[str, list[Prompt]] = {}
        for prompt in self.prompts:
            by_category.setdefault(prompt.category or "", []).append(prompt)
        categories = sorted(by_category)
        weights = _weights([rows[number][-1] for number in range(start)], categories)
        names = list(self.disguises)
        attacks = []
        for number in range(start, min(self.budget, start + ROUND)):
            stream = rng(self.seed, "attack", number)
            category = stream.choices(categories, weights)[0]
            prompt = stream.choice(by_category[category])
            attack = Attack(number, prompt, names[number % len(names)])
            attacks.append(self.attack_of(rows[number][0]) if number in rows else attack)
        return attacks

    def attack_of(self, row: ScoredReply) -> Attack:
        """The attack that a row is a turn of."""
        prompt = next(prompt for prompt in self.prompts if prompt.id == row.source)
        return Attack(row.draw, prompt, row.condition)


def _weights(last_rows: Sequence[ScoredReply], categories: Sequence[str]) -> list[float]:
    """A category's mean failure rate under a uniform prior, (failures + 1)/(n + 2)."""
    graded = Counter(row.group for row in last_rows if failed(row) is not None)
    failures = Counter(row.group for row in last_rows if failed(row))
    return [(failures[name] + 1) / (graded[name] + 2) for name in categories]


def turns_to_make(
    attacks: Sequence[Attack], rows: Mapping[int, list[ScoredReply]], turn: int
) -> list[AttackTurn]:
    """This turn of the attacks that come to it, whether or not it has been made."""
    if turn == 1:
        return [AttackTurn(attack, 1, None) for attack in attacks]
    items = []
    for attack in attacks:
        earlier = rows[attack.number][: turn - 1]
        if len(earlier) == turn - 1 and failed(earlier[-1]) == 0:
            items.append(AttackTurn(attack, turn, earlier[-1]))
    return items
