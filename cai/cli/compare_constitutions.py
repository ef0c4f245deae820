"""The command that revises the same replies by two constitutions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.generate.revise import ReviseConfig
    from cai.lm import LM
    from cai.records import Grade, Prompt, Revision
    from cai.report.constitution_comparison import GradeFn

app = typer.Typer()
Output = Annotated[
    Path,
    typer.Option(
        help="JSONL of figures; the revisions go beside it, as .first.jsonl and .second.jsonl."
    ),
]
GradedBy = Annotated[
    str, typer.Option("--constitution", help="Whose rubric grades the revisions of both.")
]


@app.command(
    "compare-constitutions",
    epilog="Example: cai compare-constitutions harmless assistant --model smollm2 "
    "--prompts examples/prompts/disallowed.jsonl --limit 20 --output compared.jsonl",
)
@with_endpoint_options("compare-constitutions")
def compare_constitutions(
    first: Annotated[str, typer.Argument(help="A constitution.")],
    second: Annotated[str, typer.Argument(help="Another, or another version of it.")],
    model: Annotated[str, typer.Option(help="The model that replies and revises.")],
    prompts: Annotated[list[Path], typer.Option("--prompts", help="Prompts; repeatable.")],
    output: Output,
    constitution: GradedBy = "refusal_style",
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts, drawn by --seed.")] = None,
    rounds: Annotated[int, typer.Option(min=0, max=16, help="Revisions of each reply.")] = 1,
    max_reply: Annotated[int, typer.Option(min=1, help="Tokens of a reply.")] = 64,
    seed: int = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Revise the same replies by two constitutions, and compare what comes out.

    Every prompt has one first reply, and one revision by each. Run again, it resumes.
    """
    quiet()
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import load_constitution
    from cai.data.readers import prompt_rows
    from cai.data.split import subsample
    from cai.generate.revise import ReviseConfig
    from cai.report.constitution_comparison import compare_revisions, metric_cells

    config = ReviseConfig(rounds=rounds, max_tokens=max_reply)
    sides = [load_constitution(name) for name in (first, second)]
    rows = subsample([p for file in prompts for p in prompt_rows(file)], limit, seed, "compare")
    if not rows:
        raise UsageError(f"{prompts[0]}: no prompt to compare on")
    grade = grader(load_constitution(constitution))
    with (
        replaced_output(output, "compare-constitutions", *prompts),
        open_logged(model, output, endpoint) as author,
    ):
        answers = endpoint.answer_settings(model)
        revised_first, revised_second = (
            _revise(output.with_suffix(f".{name}.jsonl"), side, author, config, rows, seed, answers)
            for name, side in zip(("first", "second"), sides, strict=True)
        )
        by_id = {prompt.id: prompt for prompt in rows}
        metrics = compare_revisions(by_id, revised_first, revised_second, grade)
        lines = [
            {
                "metric": row.metric,
                "n": row.n,
                "first": row.first,
                "second": row.second,
                "difference": row.difference.mean,
                "ci_low": row.difference.ci_low,
                "ci_high": row.difference.ci_high,
            }
            for row in metrics
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_output(output, "compare-constitutions", text)
    from rich.table import Table

    table = Table("metric", first, second, "first − second [95 %]", "n")
    for row in metrics:
        table.add_row(*metric_cells(row))
    print_table(table, 120)


def grader(constitution: Constitution) -> GradeFn:
    """Grades by a constitution's rubric.

    Raises:
        UsageError: it has none, or only a model can decide its propositions.
    """
    from cai.rubric import compile_rubric, grade

    if constitution.rubric is None:
        raise UsageError(f"--constitution {constitution.name}: no rubric to grade by")
    compiled = compile_rubric(constitution.rubric)

    def grade_reply(prompt: Prompt, reply: str) -> Grade:
        return grade(compiled, prompt=prompt.chat[-1].content, response=reply, kind=prompt.kind)

    return grade_reply


def _revise(
    file: Path,
    constitution: Constitution,
    author: LM,
    config: ReviseConfig,
    prompts: Sequence[Prompt],
    seed: int,
    answers: dict[str, str],
) -> list[Revision]:
    """The revisions by one constitution; those that `file` has are not made again."""
    from cai import store, templates
    from cai.cli.evaluation_rows import evaluated_rows
    from cai.cli.output_files import owned_output
    from cai.generate.revise import revise_items, revised_item, reviser
    from cai.records import Revision
    from cai.rubric import compile_rubric, training_gate

    provenance = {
        "constitution": store.digest(constitution),
        "model": author.fingerprint,
        "config": store.digest(config),
        "seed": str(seed),
        "prompts": store.digest(*(prompt.id for prompt in prompts)),
        "templates": templates.templates_digest(),
        **answers,
    }
    gate = training_gate(compile_rubric(constitution.rubric) if constitution.rubric else None)
    step = reviser(constitution, author, config, gate, seed)
    with owned_output(file, "compare-constitutions", provenance):
        items = revise_items(prompts, config)
        how = step, Revision, revised_item
        return list(evaluated_rows(file, items, how, [author], constitution.name))
