"""The command that grades replies by a rubric."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cai.errors import ConfigError, StoreError

app = typer.Typer()


@app.command(
    name="grade",
    epilog="Example: cai grade --constitution harmless --input replies.jsonl --output grades.jsonl",
)
def grade_replies(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Annotated[Path, typer.Option("--input", help="JSONL: {prompt or chat, response, kind?}; - is standard input.")],
    output: Annotated[Path, typer.Option("--output", help="JSONL: the same lines with the grade's fields added.")],
) -> None:
    """Grade replies by the rubric. Keeps every field and the order; a file cut short by a kill is gone on with."""
    from cai import store
    from cai.constitution import find, load
    from cai.hygiene.inputs import chat_from
    from cai.records import Prompt
    from cai.rubric import compile_rubric, grade

    loaded = load(find(constitution))
    if loaded.rubric is None:
        raise ConfigError(f"{constitution}: no rubric in it")
    compiled = compile_rubric(loaded.rubric)
    done = 0
    if str(output) != "-" and output.exists():
        store.mend(output)
        done = sum(1 for _ in store.json_lines(output))
    for number, data in store.json_lines(source):
        if number <= done:
            continue
        place = f"{source}:{number}"
        if not isinstance(data.get("response"), str):
            raise StoreError(f"{place}: a line needs `response` (text)")
        prompt = store.parse_row({"chat": chat_from(data, place), "kind": data.get("kind")}, Prompt, place)
        found = grade(compiled, prompt=prompt.chat[-1].content, response=data["response"], kind=prompt.kind)
        added = found.model_dump(mode="json", exclude={"id", "source"}, by_alias=True)
        line = (json.dumps(data | added, ensure_ascii=False) + "\n").encode()
        if str(output) == "-":
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        else:
            store.append_bytes(output, line)
