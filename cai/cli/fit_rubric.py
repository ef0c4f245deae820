"""Commands that write ordered replies for a rubric, and fit its weights to them."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.fit_tables import BehaviourFit, errors_table, rewards_table
from cai.cli.jsonl import Line, read_replies
from cai.cli.output import print_table
from cai.cli.rubrics import extension_yaml
from cai.cli.silence import quiet
from cai.errors import JobError, StoreError, UsageError

if TYPE_CHECKING:
    from cai.lm import LM
    from cai.records import Prompt
    from cai.rubric import CompiledRubric
    from cai.rubric.fit_weights import FitConfig, Ranked
    from cai.rubric.grade import Behaviour
    from cai.rubric.near_miss import Assignment, NearMiss

app = typer.Typer()


class GradedReply(NamedTuple):
    """A reply with its rank and features, and the class that the rubric gives it."""

    row: Ranked
    class_name: str


@app.command(
    epilog="Example: cai near-miss --constitution harmless "
    "--prompts examples/prompts/sensitive.jsonl --output ordered.jsonl"
)
@with_endpoint_options("near-miss")
def near_miss(
    constitution: Annotated[
        str, typer.Option(help="A constitution whose rubric's propositions have examples.")
    ],
    prompts: Annotated[
        list[Path], typer.Option("--prompts", help="Prompts with a kind; repeatable.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            help="JSONL: {chat, kind, response, rank, class, aim, flipped, as_wished}.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Writes the replies; by default the propositions' examples do."),
    ] = None,
    seed: int = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Write ideal replies and near misses, by class and proposition; rank 0 is fit for SFT."""
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import load_with_rubric
    from cai.data.readers import prompt_rows
    from cai.rubric import compile_rubric
    from cai.rubric.near_miss import near_misses, support, template_writer

    quiet()
    with replaced_output(output, "near-miss", *prompts):
        _, rubric = load_with_rubric(constitution)
        compiled = compile_rubric(rubric)
        all_prompts = [prompt for file in prompts for prompt in prompt_rows(file)]
        with_kind = [prompt for prompt in all_prompts if prompt.kind is not None]
        if not with_kind:
            raise StoreError(f"{', '.join(map(str, prompts))}: no prompt with a kind in it")
        if model is not None:
            with open_logged(model, output, endpoint) as lm:
                replies = _near_misses_of_model(compiled, with_kind, lm, seed)
        elif given := endpoint.given():
            raise UsageError(f"near-miss: {', '.join(given)}: only with --model, of an endpoint")
        else:
            replies = asyncio.run(near_misses(compiled, with_kind, template_writer(rubric)))
        lines = [_near_miss_line(prompt, reply) for prompt, reply in replies]
        write_output(output, "near-miss", "".join(lines))
    title = f"{len(replies)} replies to {len(with_kind)} prompts"
    table = Table("behaviour", "class or proposition", "replies", title=title)
    for behaviour, counts in support(compiled, [reply for _, reply in replies]).items():
        for name, count in counts.items():
            table.add_row(behaviour, name, str(count) if count else "none")
    print_table(table)


def _near_misses_of_model(
    compiled: CompiledRubric, prompts: Sequence[Prompt], lm: LM, seed: int
) -> list[tuple[Prompt, NearMiss]]:
    """The replies that a model writes. A call without an answer leaves its target out."""
    from cai.cli.null_rows import print_null_rows
    from cai.errors import UnansweredError
    from cai.rubric.near_miss import model_writer, near_misses

    write = model_writer(lm, compiled, seed)
    reasons: Counter[str | None] = Counter()

    async def write_or_count(prompt: Prompt, holds: Assignment) -> str | None:
        try:
            response = await write(prompt, holds)
        except UnansweredError as error:
            reasons[error.reason] += 1
            return None
        reasons[None] += 1
        return response

    async def work() -> list[tuple[Prompt, NearMiss]]:
        try:
            return await near_misses(compiled, prompts, write_or_count)
        finally:
            await lm.aclose()

    replies = asyncio.run(work())
    print_null_rows("near-miss", reasons)
    return replies


def _near_miss_line(prompt: Prompt, reply: NearMiss) -> str:
    row = {
        "chat": [message.model_dump() for message in prompt.chat],
        "kind": prompt.kind,
        "response": reply.response,
        "rank": reply.rank,
        "class": reply.class_,
        "aim": reply.target.aim,
        "flipped": reply.target.flipped,
        "as_wished": reply.on_target,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


@app.command(
    epilog="Example: cai fit --constitution harmless --input ordered.jsonl --output weights.yaml"
)
def fit(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            help="JSONL: {prompt or chat, kind, response, rank, reward?}; a lower rank is better.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="A constitution that adds the weights.")],
    margin: Annotated[
        float, typer.Option(help="Margin of the hinge loss between better and worse reply.")
    ] = 1.0,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the prompts held out for the report.")
    ] = 0.2,
    free_signs: Annotated[
        bool, typer.Option("--free-signs", help="Weights may change their sign in the rubric.")
    ] = False,
    seed: int = 0,
) -> None:
    """Fit a rubric's weights to ordered replies, and report the error rate on held-out pairs."""
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import find_constitution, load_with_rubric
    from cai.rubric import compile_rubric
    from cai.rubric.fit_weights import FitConfig

    if not (0 < margin < math.inf and 0 <= held_out < 1):
        raise UsageError(
            f"--margin {margin} --held-out {held_out}: give a margin above 0, and a share from 0 "
            "to 0.9"
        )
    config = FitConfig(margin=margin, held_out=held_out, keep_signs=not free_signs)
    with replaced_output(output, "fit", source, find_constitution(constitution)):
        loaded, rubric = load_with_rubric(constitution)
        replies = _graded_replies(source, compile_rubric(rubric))
        if not replies:
            raise JobError(f"{source}: no row of a kind that the rubric has a behaviour for")
        weights = {
            behaviour: _fit_behaviour(behaviour, rows, rubric.weights[behaviour], config, seed)
            for behaviour, rows in replies.items()
        }
        added = extension_yaml(output, constitution, loaded, {"weights": weights})
        write_output(output, "fit", added)


def _graded_replies(source: Path, compiled: CompiledRubric) -> dict[str, list[GradedReply]]:
    """Behaviour -> the file's replies to prompts of its kinds.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    replies: dict[str, list[GradedReply]] = defaultdict(list)
    for line in read_replies(source, parsed=("rank", "reward")):
        kind, rank, reward = line.prompt.kind, line.data.get("rank"), line.data.get("reward")
        is_usable = _is_number(rank) and (reward is None or _is_number(reward))
        if kind is None or not is_usable:
            raise StoreError(
                f"{line.location}: a line needs `kind`, `rank` (a number, lower is better), "
                "and `reward` as a number if at all"
            )
        behaviour = compiled.behaviours.get(kind)
        if behaviour is not None:
            replies[behaviour.name].append(_graded_reply(line, compiled, behaviour))
    return replies


def _is_number(value: object) -> bool:
    """A finite number; JSON's NaN and Infinity, true and false, and numbers beyond a double are
    none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _graded_reply(line: Line, compiled: CompiledRubric, behaviour: Behaviour) -> GradedReply:
    from cai.data.filters import prompt_key
    from cai.rubric import grade
    from cai.rubric.fit_weights import Ranked

    prompt, reward = line.prompt, line.data.get("reward")
    graded = grade(
        compiled,
        prompt=prompt.chat[-1].content,
        response=line.replies[0],
        kind=prompt.kind,
    )
    features = {
        feature.name: feature.formula.probability(graded.propositions)
        for feature in behaviour.features
    }
    ranked = Ranked(
        prompt_key(prompt),
        float(line.data["rank"]),
        features,
        None if reward is None else float(reward),
    )
    return GradedReply(ranked, graded.class_ or "none")


def _fit_behaviour(
    behaviour: str,
    replies: Sequence[GradedReply],
    start: dict[str, float],
    config: FitConfig,
    seed: int,
) -> dict[str, float]:
    """Fit the weights of one behaviour, and print its error rates and rewards.

    The report is about the held-out replies, or about all where none are held out.

    Args:
        behaviour: its name.
        replies: to the prompts of its kinds.
        start: the weights in the rubric.
        config: of the fit.
        seed: of the split by prompt.
    """
    from cai.rubric.fit_weights import fit_weights, split_prompts

    train, held_out = split_prompts([reply.row for reply in replies], config.held_out, seed)
    result = fit_weights(train, start, config)
    weights = {name: round(value, 6) for name, value in result.weights.items()}
    print(
        f"{behaviour}: {result.pairs:,} pairs, hinge {result.loss:.4f}, "
        f"reward scale {result.scale:.4g}"
    )
    reported = held_out or train
    report = BehaviourFit(behaviour, reported, bool(held_out), start, weights, result.scale)
    print_table(errors_table(report))
    classes = {id(reply.row): reply.class_name for reply in replies}
    print_table(rewards_table(report, [classes[id(row)] for row in reported]))
    return weights
