"""What an attack is set up from: disguises, the models of its roles, the grader, provenance."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.endpoint_options import EndpointOptions, open_logged
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.attacks.disguises import Disguise
    from cai.attacks.plan import AttackPlan, AttackTurn
    from cai.evals.replies import EvalConfig
    from cai.graders.base import Grader
    from cai.lm import LM
    from cai.records import Prompt, ScoredReply

MAX_LANGUAGE = 40
"""Characters of a language's name."""
ATTACKER_TEMPERATURE = 1.0


@dataclass(frozen=True)
class ChosenDisguises:
    """Disguises by name."""

    by_name: Mapping[str, Disguise | None]
    """None: the translator makes it."""
    texts: Sequence[str]
    """Their names, and the texts of templates: what decides them."""


def translation_into(translator: str | None, language: str | None) -> bool:
    """Whether there is a disguise by translation.

    Raises:
        UsageError: only one of the two is given, or the language is no name.
    """
    if (translator is None) != (language is None):
        raise UsageError("attack: --translator and --language: give both, or neither")
    if language is None:
        return False
    words = language.split()
    if not words or len(language) > MAX_LANGUAGE or not "".join(words).isalpha():
        raise UsageError(
            "attack: --language: name a language in letters, such as Swahili, "
            f"in {MAX_LANGUAGE} characters at most"
        )
    return True


def chosen_disguises(
    names: Sequence[str], templates: Path | None, translated: bool
) -> ChosenDisguises:
    """The disguises of these names, or all, and those of the templates.

    Raises:
        UsageError: there is no such name, or a template has that of another disguise.
        StoreError: the templates cannot be read.
    """
    from cai.attacks.disguises import DISGUISES, in_template
    from cai.attacks.template_files import read_templates
    from cai.attacks.translation import TRANSLATION

    known: dict[str, Disguise | None] = dict(DISGUISES)
    if translated:
        known[TRANSLATION] = None
    for name in names:
        if name == TRANSLATION and not translated:
            raise UsageError(f"attack: --transform {name}: needs --translator and --language")
        if name not in known:
            listed = ", ".join(known)
            raise UsageError(f"attack: --transform {name}: no such disguise; known: {listed}")
    chosen = {name: known[name] for name in names or known}
    texts = list(chosen)
    for template in [] if templates is None else read_templates(templates):
        if template.name in DISGUISES or template.name == TRANSLATION:
            raise UsageError(
                f"attack: --templates {templates}: {template.name} is the name of another disguise:"
                " give the template another"
            )
        chosen[template.name] = in_template(template.text)
        texts += template
    return ChosenDisguises(chosen, texts)


@contextlib.contextmanager
def open_models(
    specs: Mapping[str, str], output: Path, endpoint: EndpointOptions
) -> Iterator[dict[str, LM]]:
    """The model of each role; one for roles of the same spec. The limits hold for all together."""
    budget = endpoint.budget(endpoint.parse_settings()[1])
    opened: dict[str, LM] = {}
    try:
        with contextlib.ExitStack() as stack:
            for spec in dict.fromkeys(specs.values()):
                logged = open_logged(spec, output, endpoint, budget)
                opened[spec] = stack.enter_context(logged)
            yield {role: opened[spec] for role, spec in specs.items()}
    finally:
        if budget.calls:
            print(f"calls   {budget.summary()}", file=sys.stderr)


def endpoint_settings(specs: Mapping[str, str], endpoint: EndpointOptions) -> dict[str, str]:
    """Settings of endpoints that decide what a row holds."""
    return {
        key: value
        for spec in specs.values()
        for key, value in endpoint.answer_settings(spec).items()
    }


@dataclass(frozen=True)
class AttackSetup:
    """The options that decide the attacks."""

    constitution: str
    disguises: ChosenDisguises
    language: str
    seed: int

    def plan(self, prompts: Sequence[Prompt], budget: int, turns: int) -> AttackPlan:
        """Which attack comes next."""
        from cai.attacks.plan import AttackPlan

        return AttackPlan(prompts, self.disguises.by_name, budget, turns, self.seed)

    def step(
        self, subject: str, models: Mapping[str, LM], config: EvalConfig
    ) -> tuple[Callable[[AttackTurn], Awaitable[ScoredReply]], dict[str, str]]:
        """(the step that makes a turn of an attack, digests of the rubric and of the settings)"""
        from cai import store
        from cai.attacks.target import attack_step, back_translated
        from cai.attacks.translation import translator
        from cai.attacks.turn_writer import TurnWriter
        from cai.attacks.user_turns import NextTurn, attacker_turns, ladder_turn
        from cai.evals.replies import scored_reply_step

        grader, rubric = _grader(self.constitution, models.get("judge"))
        translate = None
        next_turn: NextTurn = ladder_turn
        if "translator" in models:
            translate = translator(models["translator"])
            grader = back_translated(grader, translate)
        if "attacker" in models:
            next_turn = attacker_turns(models["attacker"], ATTACKER_TEMPERATURE, self.seed)
        writer = TurnWriter(self.disguises.by_name, next_turn, translate, self.language)
        answer = scored_reply_step(subject, models["model"], grader, config, self.seed)
        digests = {"rubric": rubric, "config": store.digest(config)}
        return attack_step(subject, answer, writer.write), digests

    def digests(self, prompts: Sequence[Prompt], turns: int) -> dict[str, str]:
        """What decides the attacks, besides models and the rubric."""
        from cai import store
        from cai.attacks.translation import TRANSLATE, TRANSLATOR
        from cai.attacks.user_turns import ATTACKER, GOALS, LADDER, NEXT_TURN

        wording = (*LADDER, ATTACKER, NEXT_TURN, *GOALS.values(), TRANSLATOR, TRANSLATE)
        return {
            "seed": str(self.seed),
            "turns": str(turns),
            "disguises": store.digest(*self.disguises.texts, self.language),
            "wording": store.digest(*wording),
            "prompts": store.digest(*(prompt.line() for prompt in prompts)),
        }


def _grader(constitution: str, judge: LM | None) -> tuple[Grader, str]:
    """(the grader by the constitution's rubric, the digest of what decides it)

    Raises:
        UsageError: the rubric needs a judge, and there is none.
    """
    from cai import store
    from cai.constitution import load_with_rubric
    from cai.graders.rubric import judged_rubric_grader, rubric_grader
    from cai.rubric import compile_rubric

    loaded, rubric = load_with_rubric(constitution)
    compiled = compile_rubric(rubric)
    if judge is not None:
        return judged_rubric_grader(judge, compiled, loaded), store.digest(loaded)
    if compiled.model_questions:
        names = ", ".join(compiled.model_questions)
        raise UsageError(
            f"{constitution}: only a model can decide {names}: name one (--judge), or give patterns"
        )
    return rubric_grader(compiled), store.digest(rubric)
