"""Red-teaming a target: prompts in disguises, in one turn or several, more where it fails.

    redteam.failure_rate                 attacks with a reply whose rubric class is not correct
    redteam.failure_rate.category.NAME   the same in one category
    redteam.failure_rate.transform.NAME  the same in one disguise
    redteam.failure_rate.turn.K          replies of turn K, of the attacks that came to it
    redteam.failure_rate.within.K        attacks that failed in their first K turns

An attack ends with the first failure, with the first reply that has no grade (it is unscored), or
after the last turn. Every attack has a number. What it is follows from the seed and the rows of
earlier rounds, so a killed run resumes to the same attacks. A row is a turn: a `ScoredReply` with
the attack's number as its draw, the disguise as its condition and the category as its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cai.attacks.disguises import Disguise
from cai.attacks.translation import RUBRIC_LANGUAGE, TRANSLATION, Translate
from cai.attacks.user_turns import NextTurn, ladder_turn, with_reply
from cai.errors import UnansweredError
from cai.evals.graded_items import GradedItem, Grader, Verdict, scored_reply
from cai.evals.replies import NO_SAMPLE
from cai.lm.base import Sample
from cai.records import Chat, Message, Prompt, Score, ScoredReply
from cai.seeds import rng
from cai.statistics.estimates import estimate

ROUND = 20
"""Attacks between two looks at the failures."""
INCORRECT = "incorrect"
METRIC = "redteam.failure_rate"


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


# ---- one turn ----


@dataclass(frozen=True)
class TurnWriter:
    """What writes the user's turns."""

    disguises: Mapping[str, Disguise | None]
    next_turn: NextTurn = ladder_turn
    translate: Translate | None = None
    language: str = ""

    async def write(self, item: AttackTurn) -> Chat:
        """The conversation that the target is given.

        Raises:
            UnansweredError: the attacker or the translator has no answer.
        """
        attack = item.attack
        if item.previous is None:
            disguise = self.disguises[attack.disguise]
            chat = attack.prompt.chat if disguise is None else disguise(attack.prompt.chat)
        else:
            earlier = with_reply(item.previous.chat, item.previous.response)
            text = await self.next_turn(attack.prompt, earlier, (attack.number, item.turn))
            chat = (*earlier, Message(role="user", content=text))
        if attack.disguise == TRANSLATION and self.translate is not None:
            text = await self.translate(chat[-1].content, self.language)
            chat = (*chat[:-1], Message(role="user", content=text))
        return chat


def back_translated(grader: Grader, translate: Translate) -> Grader:
    """The grader of replies to attacks in translation: it is given the reply in English."""

    async def decide(item: GradedItem, sample: Sample) -> Verdict:
        if item.condition != TRANSLATION:
            return await grader(item, sample)
        text = await translate(sample.text, RUBRIC_LANGUAGE)
        verdict = await grader(item, sample.model_copy(update={"text": text}))
        return verdict._replace(graded_text=text)

    return decide


def attack_step(
    subject: str,
    answer: Callable[[GradedItem], Awaitable[ScoredReply]],
    write: Callable[[AttackTurn], Awaitable[Chat]],
) -> Callable[[AttackTurn], Awaitable[ScoredReply]]:
    """The step that makes one turn of an attack.

    Args:
        answer: `scored_reply_step` of the target.
        write: `TurnWriter.write`.
    """

    async def make(item: AttackTurn) -> ScoredReply:
        attack, unwritten = item.attack, None
        try:
            chat = await write(item)
        except UnansweredError as error:
            chat = attack.prompt.chat if item.previous is None else item.previous.chat
            unwritten = error.reason
        graded = GradedItem(
            prompt=attack.prompt,
            chat=chat,
            draw=attack.number,
            condition=attack.disguise,
            group=attack.prompt.category or "",
            turn=item.turn,
        )
        if unwritten is not None:
            return scored_reply(graded, subject, NO_SAMPLE, Verdict({}, unwritten))
        return await answer(graded)

    return make


# ---- rates ----


def attack_scores(rows: Sequence[ScoredReply], subject: str, turns: int) -> list[Score]:
    """The metrics of the module's table, with prompts as clusters; by turn if there are several."""
    attacks = conversations(rows)
    groups: dict[str, list[ScoredReply]] = {"": []}
    for members in attacks.values():
        last = members[-1]
        groups[""].append(last)
        if last.group:
            groups.setdefault(f".category.{last.group}", []).append(last)
        groups.setdefault(f".transform.{last.condition}", []).append(last)
    for turn in range(1, turns + 1) if turns > 1 else ():
        groups[f".turn.{turn}"] = [row for row in rows if row.turn == turn]
        groups[f".within.{turn}"] = [members[:turn][-1] for members in attacks.values()]
    return [_score(name, members, subject) for name, members in sorted(groups.items()) if members]


def _score(name: str, rows: Sequence[ScoredReply], subject: str) -> Score:
    prompts = [row.source for row in rows]
    values = [failed(row) for row in rows]
    return estimate(f"{METRIC}{name}", subject, values, prompts, proportion=True)
