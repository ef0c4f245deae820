"""The command line: wiring only.

Exit codes: 0 done, 1 the job found or failed something, 2 wrong usage or unreadable input, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from cai.errors import CaiError, ConfigError, StoreError, UsageError

app = typer.Typer(
    name="cai",
    help="Constitutional AI end to end: from a constitution in YAML to a measurably safer model.",
    epilog="Example: cai run examples/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's settings.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; repeatable.")]
MaxCost = Annotated[float | None, typer.Option(help="Stop before calls to endpoints cost more (by `prices` in RUN.yaml).")]
MaxTokens = Annotated[int | None, typer.Option(help="Stop before calls to endpoints take more tokens.")]
MaxHours = Annotated[float | None, typer.Option(help="Stop asking endpoints after so many hours.")]
INTERRUPTED = "interrupted; nothing finished is lost: run the same command to go on"
WrongUsage: type[Exception] = typer.BadParameter.__mro__[2]
"""click's ClickException, or that of the copy of click inside newer versions of typer."""
NAMES = ("prompts", "revise", "sft", "pair", "label", "reward", "ppo", "eval", "report")


@app.command(epilog="Example: cai check constitutions/harmless.yaml")
def check(constitutions: Annotated[list[str], typer.Argument(metavar="CONSTITUTION...")]) -> None:
    """Compile constitutions and say what is wrong with them. Exit 0 clean, 1 findings, 2 cannot read."""
    from cai.constitution import find, lint, load
    from cai.rubric import check_rubric

    found = 0
    for name in constitutions:
        constitution = load(find(name))
        lines = [f"{finding.where}: {finding.message}" for finding in lint(constitution)]
        lines += [f"rubric: {line}" for line in (check_rubric(constitution.rubric) if constitution.rubric else [])]
        found += len(lines)
        for line in lines:
            print(f"{name}: {line}")
        if not lines:
            print(f"{name}: {constitution.name} {constitution.version}: clean ({len(constitution.principles)} principles)")
    raise typer.Exit(1 if found else 0)


@app.command(epilog="Example: cai show harmless")
def show(constitution: Annotated[str, typer.Argument(metavar="CONSTITUTION")]) -> None:
    """Print what a constitution holds, with everything that it extends."""
    from cai.constitution import find, load, overview

    print(overview(load(find(constitution))))


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
    from cai.hygiene.prompts import chat_from
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


@app.command(epilog="Example: cai run examples/quickstart.yaml --set ppo.updates=20")
def run(
    file: RunFile,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help=f"First stage: {', '.join(NAMES)}.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage.")] = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Walk all stages of a run. Finished ones are skipped, a half-finished one is gone on with."""
    for name in (first, last):
        if name is not None and name not in NAMES:
            raise UsageError(f"no such stage: {name}; stages: {', '.join(NAMES)}")
    start, stop = NAMES.index(first or NAMES[0]), NAMES.index(last or NAMES[-1])
    if stop < start:
        raise UsageError(f"--until {last} comes before --from {first}: nothing to do")
    _walk(file, NAMES[start : stop + 1], settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)


def _walk(file: Path, names: tuple[str, ...], settings: list[str] | None, **limits: Any) -> None:
    _quiet()
    from cai.config import load_run
    from cai.lm.metered import Budget
    from cai.progress import teller
    from cai.stages import walk
    from cai.workshop import SCORES, open_workshop

    loaded = load_run(file, settings or [])
    started = time.monotonic()
    with teller() as progress:
        shop = open_workshop(loaded, progress, Budget(**limits), lambda line: print(line, file=sys.stderr))
        try:
            walk(shop, names, _tell)
        finally:
            if shop.budget.calls:
                print(f"calls   {shop.budget.told()}", file=sys.stderr)
    scores = loaded.folder / SCORES
    if {"eval", "report"} & set(names) and scores.exists():
        from cai.records import Score
        from cai.report.table import headline
        from cai.store import read

        Console(width=None if sys.stdout.isatty() else 120).print(headline(list(read(scores, Score))))
    if "report" in names:
        print(f"report: {loaded.folder / 'report.html'}   ({time.monotonic() - started:.0f} s)")


def _tell(stage: str, seconds: float) -> None:
    """One line per finished stage; the memory is the process's highest so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
    print(f"{stage:>8}  {seconds:6.1f} s   peak memory {peak:.1f} GiB", file=sys.stderr)


def _quiet() -> None:
    """No telemetry, and no chatter of libraries between our own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()


def _stage(name: str, doc: str) -> None:
    def command(
        file: RunFile,
        settings: Settings = None,
        max_cost: MaxCost = None,
        max_tokens: MaxTokens = None,
        max_hours: MaxHours = None,
    ) -> None:
        _walk(file, (name,), settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)

    command.__doc__ = doc
    app.command(name, epilog=f"Example: cai {name} examples/quickstart.yaml")(command)


log = typer.Typer(
    name="log",
    help="The request log of a run: what endpoints were asked, and what they said.",
    epilog="Example: cai log stats runs/mine/requests.sqlite",
    no_args_is_help=True,
)
app.add_typer(log)
LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="A run's requests.sqlite.")]


@log.command("stats", epilog="Example: cai log stats runs/mine/requests.sqlite")
def log_stats(file: LogFile) -> None:
    """Calls, tokens and seconds of waiting, by model and kind."""
    from rich.table import Table

    from cai.lm.cached import RequestLog

    table = Table("model", "kind", *(f"{name}" for name in ("calls", "prompt tokens", "completion tokens", "s a call")))
    for model, kind, calls, prompt, completion, seconds in RequestLog(file, create=False).stats():
        table.add_row(model, kind, f"{calls:,}", f"{prompt:,}", f"{completion:,}", f"{seconds / calls:.3f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@log.command("export", epilog="Example: cai log export runs/mine/requests.sqlite > calls.jsonl")
def log_export(file: LogFile) -> None:
    """Every call as a JSON line on standard output: request, raw answer, tokens, time. It holds no keys."""
    from cai.lm.cached import RequestLog

    for row in RequestLog(file, create=False).rows():
        print(json.dumps(row, ensure_ascii=False))


@log.command("prune", epilog="Example: cai log prune runs/mine/requests.sqlite --older-than 30")
def log_prune(
    file: LogFile,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Only calls made before so many days.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls of this model, as `cai log stats` names it.")] = None,
) -> None:
    """Forget calls. They are made again, and paid for again, when a stage needs them."""
    from cai.lm.cached import RequestLog

    before = None if older_than is None else time.time() - older_than * 86400
    print(f"{RequestLog(file, create=False).prune(before=before, model=model)} calls forgotten")


_stage("revise", "Stage of a run: critiques and revisions of the model's own replies (after: prompts).")
_stage("sft", "Stage of a run: fine-tune on the revisions.")
_stage("pair", "Stage of a run: draw two replies per prompt from the fine-tuned model.")
_stage("label", "Stage of a run: say which reply of each pair is better, by principle, in both orders.")
_stage("reward", "Stage of a run: train the preference model on the labels.")
_stage("ppo", "Stage of a run: PPO against preference model and rubric, with KL control.")
_stage("eval", "Stage of a run: answer held-out prompts with every model and score the replies.")
_stage("report", "Stage of a run: write report.html from the files of the run.")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `cai` command."""
    try:
        code = app(arguments, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except CaiError as error:
        _end(str(error), 2 if isinstance(error, UsageError) else 1)
    except WrongUsage as error:
        _end(error.format_message(), 2)  # type: ignore[attr-defined]
    if code == 130:
        _end(INTERRUPTED, 130)
    sys.exit(code if isinstance(code, int) else 0)


def _end(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"cai: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
