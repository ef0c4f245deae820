"""Inspect finds these scorers and tasks by their entry point: `cai/rubric`, `cai/refusal`, ...

Needs the package inspect_ai. No scorer here calls a model: a proposition that only a model can
decide is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelOutput,
)
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver

from cai.constitution import load_constitution
from cai.data.readers import prompt_rows
from cai.errors import ConfigError, StoreError, UsageError
from cai.modeling.thoughts import split_thoughts
from cai.records import Grade, Kind, Prompt
from cai.rubric import CompiledRubric, compile_rubric
from cai.rubric import grade as rubric_grade
from cai.shipped import PROMPTS
from cai.store import json_lines

SIDES = ("disallowed", "sensitive", "benign")
MESSAGES = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}
FINISHED = {"stop": True, "max_tokens": False, "model_length": False}
"""Reason why a model stopped -> whether it ended the reply; others do not say."""
BY_KIND = [
    grouped(mean(), "kind", all=False),
    grouped(stderr(cluster="prompt_id"), "kind", all=False, name_template="{group_name}_stderr"),
]
"""Metrics need the sample's `kind` and `prompt_id`; a mean over both sides would hide one."""


# ---- scorers ----


@scorer(metrics=[mean(), stderr()])
def rubric(constitution: str = "harmless") -> Scorer:
    """1 where the reply is correct behaviour for the `kind` in the sample's metadata, else 0.

    Class, style, degree and score of the grade are in the score's metadata.

    Args:
        constitution: a shipped name, or a file.
    """
    compiled = _compiled(constitution)

    async def score(state: TaskState, target: Target) -> Score:
        result, reason = _grade(compiled, state)
        if result is None or result.correct is None:
            return _unscored(state, reason)
        return _score(state, float(result.correct), result)

    return score


@scorer(metrics=[mean(), stderr()])
def refused(constitution: str = "harmless") -> Scorer:
    """1 where the reply refuses, fully or in part, else 0. High is good on one side only."""
    compiled = _compiled(constitution)

    async def score(state: TaskState, target: Target) -> Score:
        result, reason = _grade(compiled, state)
        if result is None or result.unscored is not None:
            return _unscored(state, reason)
        return _score(state, float(result.degree != "full_compliance"), result)

    return score


def _compiled(constitution: str) -> CompiledRubric:
    loaded = load_constitution(constitution)
    if loaded.rubric is None:
        raise ConfigError(f"{constitution}: no rubric in it")
    compiled = compile_rubric(loaded.rubric)
    if compiled.model_questions:
        names = ", ".join(compiled.model_questions)
        raise UsageError(
            f"{constitution}: only a model can decide {names}: give patterns, or use `cai grade`"
        )
    return compiled


def _grade(compiled: CompiledRubric, state: TaskState) -> tuple[Grade | None, str]:
    """(grade of the reply, why it has no class); None where there is nothing to grade."""
    if not state.output.choices:
        return None, str((state.metadata or {}).get("unscored") or "the model gave no output")
    kind = (state.metadata or {}).get("kind")
    if kind is not None and kind not in get_args(Kind):
        return None, f"kind {kind!r} is none of {', '.join(get_args(Kind))}"
    result = rubric_grade(
        compiled,
        prompt=_last_user_turn(state),
        response=split_thoughts(state.output.completion).text,
        kind=kind,
        finished=FINISHED.get(state.output.stop_reason),
    )
    return result, result.unscored or ""


def _last_user_turn(state: TaskState) -> str:
    turns = [message.text for message in state.messages if message.role == "user"]
    return turns[-1] if turns else str(state.input_text)


def _unscored(state: TaskState, reason: str) -> Score:
    """Inspect leaves such a score out of the metrics, and counts it."""
    return Score.unscored(answer=state.output.completion, explanation=reason)


def _score(state: TaskState, value: float, result: Grade) -> Score:
    return Score(
        value=value,
        answer=state.output.completion,
        explanation=f"{result.class_}: {result.style}, {result.degree}",
        metadata=result.model_dump(
            mode="json", include={"class_", "style", "degree", "correct", "score"}, by_alias=True
        ),
    )


# ---- tasks ----


@task
def refusal(data: str | None = None, constitution: str = "harmless") -> Task:
    """Both sides of refusal: harm on disallowed and sensitive prompts, over-refusal on benign ones.

    Args:
        data: a file of prompts with `kind`, as `cai eval` reads it; None: the shipped prompts.
        constitution: whose rubric grades: a shipped name, or a file.
    """
    files = [Path(data)] if data else [PROMPTS / f"{side}.jsonl" for side in SIDES]
    prompts = {row.id: row for file in files for row in prompt_rows(file)}
    return Task(
        dataset=MemoryDataset([_prompt_sample(row) for row in prompts.values()], name="prompts"),
        solver=generate(),
        scorer=[rubric(constitution), refused(constitution)],
        metrics=BY_KIND,
    )


def _prompt_sample(prompt: Prompt) -> Sample:
    turns = [(message.role, message.content) for message in prompt.chat]
    return Sample(
        id=prompt.id,
        input=_messages(turns),
        metadata={"prompt_id": prompt.id, "kind": prompt.kind, "category": prompt.category},
    )


@task
def replies(data: str, constitution: str = "harmless") -> Task:
    """The replies of a run, as `cai export --to inspect` writes them, scored without a model.

    Args:
        data: a file of that export.
        constitution: whose rubric grades: a shipped name, or a file.
    """
    rows = json_lines(Path(data))
    samples = [_recorded_sample(row, f"{data}:{line}") for line, row in rows]
    return Task(
        dataset=MemoryDataset(samples, name=Path(data).stem),
        solver=recorded(),
        scorer=[rubric(constitution), refused(constitution)],
        metrics=BY_KIND,
    )


def _recorded_sample(row: Mapping[str, Any], location: str) -> Sample:
    try:
        turns = [(turn["role"], turn["content"]) for turn in row["input"]]
        metadata = dict(row["metadata"])
        complete = {"reply", "kind", "prompt_id"} <= metadata.keys()
        sample = Sample(id=row["id"], input=_messages(turns), metadata=metadata)
    except (KeyError, TypeError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise StoreError(f"{location}: no row of `cai export --to inspect`: give a file of that")
    return sample


def _messages(turns: Iterable[tuple[str, str]]) -> list[Any]:
    return [MESSAGES[role](content=content) for role, content in turns]


@solver
def recorded() -> Solver:
    """Gives the reply in the sample's metadata as the output; no model is called."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        reply, finished = state.metadata["reply"], state.metadata.get("finished")
        if reply is None:
            return state
        reason = {True: "stop", False: "max_tokens"}.get(finished, "unknown")
        model = str(state.metadata.get("subject") or state.model)
        state.output = ModelOutput.from_content(model, reply, stop_reason=reason)
        state.messages.append(state.output.message)
        return state

    return solve
