"""Red-teaming a target: prompts in disguises, in one turn or several, more where it fails.

    redteam.failure_rate                 attacks with a reply whose rubric class is not correct
    redteam.failure_rate.category.NAME   the same in one category
    redteam.failure_rate.transform.NAME  the same in one disguise
    redteam.failure_rate.turn.K          replies of turn K, of the attacks that came to it
    redteam.failure_rate.within.K        attacks that failed in their first K turns

An attack ends with the first failure, with the first reply that has no grade (it is unscored), or
after the last turn. Its rows are those of `cai.attacks.plan`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cai.attacks.plan import AttackTurn, conversations, failed
from cai.attacks.translation import RUBRIC_LANGUAGE, TRANSLATION, Translate
from cai.errors import UnansweredError
from cai.graders.base import GradedItem, Grader, Verdict, scored_reply
from cai.lm.base import NO_SAMPLE, Sample
from cai.records import Chat, Score, ScoredReply
from cai.statistics.estimates import estimate

METRIC = "redteam.failure_rate"


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
