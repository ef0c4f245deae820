"""Commands about constitutions: check, show, diff, import, schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution import Change, Constitution
    from cai.modeling.tokenization import Renderer

app = typer.Typer()


@app.command(epilog="Example: cai check constitutions/harmless.yaml")
def check(
    constitutions: Annotated[list[str], typer.Argument(metavar="CONSTITUTION...")],
) -> None:
    """Compile constitutions and report their defects. Exit 0 clean, 1 findings, 2 unreadable."""
    from cai.constitution import lint, load_constitution
    from cai.constitution.load import inherited_propositions
    from cai.rubric import check_rubric

    has_findings = False
    for name in constitutions:
        constitution = load_constitution(name)
        lines = [f"{finding.location}: {finding.message}" for finding in lint(constitution)]
        if constitution.rubric:
            inherited = inherited_propositions(name)
            lines += [f"rubric: {line}" for line in check_rubric(constitution.rubric, inherited)]
        for line in lines:
            print(f"{name}: {line}")
        if lines:
            has_findings = True
        else:
            version = f"{constitution.name} {constitution.version}"
            print(f"{name}: {version}: clean ({len(constitution.principles)} principles)")
    raise typer.Exit(1 if has_findings else 0)


@app.command(epilog="Example: cai show harmless --render --principle no-violence")
def show(
    constitution: Annotated[str, typer.Argument(metavar="CONSTITUTION")],
    render: Annotated[
        bool, typer.Option("--render", help="Print the chats that a model would get.")
    ] = False,
    principle: Annotated[
        str | None, typer.Option(metavar="ID", help="With --render: only this principle.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="With --render: the tokenizer that counts tokens.")
    ] = "smollm2",
) -> None:
    """Print the contents of a constitution, with those of the constitutions that it extends."""
    from cai.constitution import load_constitution, overview

    loaded = load_constitution(constitution)
    if not render:
        print(overview(loaded))
        return
    quiet()
    from cai.modeling.model_files import local_model_name, resolve_model_path
    from cai.modeling.tokenization import load_renderer

    ids = [each.id for each in loaded.principles if principle in (None, each.id)]
    if not ids:
        known = ", ".join(each.id for each in loaded.principles) or "none"
        raise UsageError(f"--principle {principle}: no such id; ids: {known}")
    weights = local_model_name(model)
    if weights is None:
        raise UsageError(
            f"--model {model}: tokens are counted with a tokenizer on this machine: "
            "smollm2 or local:FOLDER_OR_HUB_ID"
        )
    _print_chats(loaded, ids, load_renderer(resolve_model_path(weights)), model)


def _print_chats(
    constitution: Constitution, ids: Sequence[str], renderer: Renderer, model: str
) -> None:
    """Print the chats of each stage for the principles with these ids."""
    from cai.generate.preview import renderings

    for principle in constitution.principles:
        if principle.id not in ids:
            continue
        for stage, chat, prefill in renderings(constitution, principle):
            tokens = len(renderer.prompt_ids(chat, prefill))
            print(f"==== {principle.id}: {stage} ({tokens} tokens of {model})")
            for message in chat:
                print(f"---- {message.role}\n{message.content}")
            print(f"---- assistant\n{prefill}…\n")


@app.command(epilog="Example: cai diff constitutions/harmless.yaml mine.yaml --run runs/mine.yaml")
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE")],
    after: Annotated[str, typer.Argument(metavar="AFTER")],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN.yaml", help="Also count rows of this run that become stale."),
    ] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="With --run: list the ids of the rows.")
    ] = False,
) -> None:
    """Print the differences between two constitutions, part by part. Exit 0 equal, 1 different."""
    from cai.constitution import diff, load_constitution

    new = load_constitution(after)
    changes = diff(load_constitution(before), new)
    for change in changes:
        fields = f": {', '.join(change.fields)}" if change.fields else ""
        print(f"{change.what} {change.key}{fields}")
    if run is not None:
        _print_stale_rows(run, new, changes, ids)
    raise typer.Exit(1 if changes else 0)


def _print_stale_rows(
    run: Path, constitution: Constitution, changes: Sequence[Change], with_ids: bool
) -> None:
    quiet()
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.staleness import stale_rows

    ctx = open_run(load_run(run, []), lambda stage: lambda done, total: None)
    ctx = replace(ctx, constitution=constitution)
    for name, (rows, total) in stale_rows(ctx, changes).items():
        print(f"{name}: {len(rows)} of {total} rows become stale")
        if with_ids:
            for row in rows:
                print(f"  {row}")


@app.command(
    name="import",
    epilog="Example: cai import CritiqueRevisionInstructions.json --name theirs > theirs.yaml",
)
def import_foreign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or YAML of another tool.")],
    name: Annotated[str, typer.Option(help="Name of the constitution.")] = "imported",
) -> None:
    """Convert another tool's constitution or rubric to our format, on standard output.

    Notes on standard error name what could not be converted.
    """
    from cai.constitution.importers import as_yaml, import_constitution, slug

    if slug(name) != name:
        raise UsageError(
            f"--name {name}: lower-case letters, digits, - and _ only; {slug(name)} would do"
        )
    imported = import_constitution(file, name)
    print(as_yaml(imported), end="")
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)


@app.command(epilog="Example: cai schema > constitution.schema.json")
def schema() -> None:
    """Print the JSON Schema of constitutions, for completion and validation in editors."""
    from cai.constitution.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
