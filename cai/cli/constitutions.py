"""Commands about constitutions: read, check, compare and bring along."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cai.cli.silence import quiet
from cai.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: cai check constitutions/harmless.yaml")
def check(constitutions: Annotated[list[str], typer.Argument(metavar="CONSTITUTION...")]) -> None:
    """Compile constitutions and say what is wrong with them. Exit 0 clean, 1 findings, 2 cannot read."""
    from cai.constitution import find, lint, load_constitution
    from cai.rubric import check_rubric

    found = 0
    for name in constitutions:
        constitution = load_constitution(find(name))
        lines = [f"{finding.where}: {finding.message}" for finding in lint(constitution)]
        lines += [f"rubric: {line}" for line in (check_rubric(constitution.rubric) if constitution.rubric else [])]
        found += len(lines)
        for line in lines:
            print(f"{name}: {line}")
        if not lines:
            print(f"{name}: {constitution.name} {constitution.version}: clean ({len(constitution.principles)} principles)")
    raise typer.Exit(1 if found else 0)


@app.command(epilog="Example: cai show harmless --render --principle no-violence")
def show(
    constitution: Annotated[str, typer.Argument(metavar="CONSTITUTION")],
    render: Annotated[bool, typer.Option("--render", help="Write out the chats that a model would see.")] = False,
    principle: Annotated[str | None, typer.Option(metavar="ID", help="With --render: this principle alone.")] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="With --render: whose tokens are counted.")] = "smollm2",
) -> None:
    """Print what a constitution holds, with everything that it extends."""
    from cai.constitution import find, load_constitution, overview

    loaded = load_constitution(find(constitution))
    if not render:
        print(overview(loaded))
        return
    quiet()
    from cai.generate.preview import renderings
    from cai.modeling.model_files import local_weights, locate
    from cai.modeling.tokenization import load_renderer

    chosen = [one for one in loaded.principles if principle in (None, one.id)]
    if not chosen:
        raise UsageError(f"--principle {principle}: no such id; ids: {', '.join(one.id for one in loaded.principles) or 'none'}")
    weights = local_weights(model)
    if weights is None:
        raise UsageError(
            f"--model {model}: tokens are counted with a tokenizer on this machine: smollm2 or local:FOLDER_OR_HUB_ID"
        )
    renderer = load_renderer(locate(weights))
    for one in chosen:
        for stage, chat, prefill in renderings(loaded, one):
            count = len(renderer.prompt_ids(chat)) + len(renderer.text_ids(prefill))
            print(f"==== {one.id}: {stage} ({count} tokens of {model})")
            for message in chat:
                print(f"---- {message.role}\n{message.content}")
            print(f"---- assistant\n{prefill}…\n")


@app.command(epilog="Example: cai diff constitutions/harmless.yaml mine.yaml --run runs/mine.yaml")
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE")],
    after: Annotated[str, typer.Argument(metavar="AFTER")],
    run: Annotated[Path | None, typer.Option(metavar="RUN.yaml", help="Also count rows of this run that become stale.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="With --run: name those rows.")] = False,
) -> None:
    """Say what differs between two constitutions, part by part. Exit 0 the same, 1 different."""
    from cai.constitution import diff, find, load_constitution

    old, new = load_constitution(find(before)), load_constitution(find(after))
    changes = diff(old, new)
    for change in changes:
        print(f"{change.what} {change.key}{': ' * bool(change.fields)}{', '.join(change.fields)}")
    if run is not None:
        quiet()
        from cai.pipeline.config import load_run
        from cai.pipeline.context import open_run
        from cai.pipeline.staleness import stale_rows

        ctx = replace(open_run(load_run(run, []), lambda stage: lambda done, total: None), constitution=new)
        for name, (rows, total) in stale_rows(ctx, changes).items():
            print(f"{name}: {len(rows)} of {total} rows become stale")
            for row in rows if ids else ():
                print(f"  {row}")
    raise typer.Exit(1 if changes else 0)


@app.command(name="import", epilog="Example: cai import CritiqueRevisionInstructions.json --name theirs > theirs.yaml")
def import_foreign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or YAML of another tool.")],
    name: Annotated[str, typer.Option(help="Name of the constitution.")] = "imported",
) -> None:
    """Turn another tool's constitution or rubric into one of ours, on standard output; what has no place is named."""
    from cai.constitution.importers import as_yaml, read_foreign, slug

    if slug(name) != name:
        raise UsageError(f"--name {name}: lower-case letters, digits, - and _ only; {slug(name)} would do")
    found = read_foreign(file, name)
    print(as_yaml(found), end="")
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)


@app.command(epilog="Example: cai schema > constitution.schema.json")
def schema() -> None:
    """Print the JSON Schema of constitutions, with which editors complete and check them."""
    from cai.constitution.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
