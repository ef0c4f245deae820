"""`cai eval --only elo`: several subjects' replies to the same prompts, compared and rated."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.cli.endpoint_options import open_logged
from cai.cli.evaluations import EvaluationJob
from cai.cli.output import print_table
from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.evals.judged_pairs import JudgedPair, SubjectReply
    from cai.generate.label_config import LabelConfig
    from cai.lm import LM
    from cai.records import Chat, PromptDraw, Row, Score

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def evaluate_elo(job: EvaluationJob) -> None:
    """Write the scores to the output, and beside it each subject's replies and the comparisons."""
    from cai.catalog.comparisons import compared_draws
    from cai.cli.output_files import replaced_output, write_output
    from cai.evals.elo import corrected_scores, elo_scores

    options = job.options
    verdicts = Path(job.extras["verdicts"]) if "verdicts" in job.extras else None
    subjects = _by_name("--subject", "SPEC", job.several.get("subject", ()))
    turns = _by_name("--turns", "FILE", job.several.get("turns", ()))
    _check(job, subjects, turns)
    output = options.path("output")
    sources = [options.path("data")] if subjects else []
    sources += [verdicts] if verdicts else []
    with replaced_output(output, "eval", *sources):
        draws = compared_draws(job.task()) if subjects else []
        people = _verdicts(verdicts, draws, subjects) if verdicts else []
        judged: list[JudgedPair] = []
        if subjects:
            judged = _judged(job, draws, subjects, _Settings.of(job, turns))
        names = list(subjects) or list(dict.fromkeys(n for row in people for n in row.subjects))
        scores = elo_scores(judged or people, names, seed=job.seed)
        if judged and people:
            scores += corrected_scores(judged, people, names)
        write_output(output, "eval", "".join(row.line() + "\n" for row in scores))
    _print(scores, judged or people)


def _by_name(option: str, what: str, values: Sequence[str]) -> dict[str, str]:
    """NAME -> value of an option NAME=VALUE."""
    named: dict[str, str] = {}
    for value in values:
        name, _, rest = value.partition("=")
        if not NAME.fullmatch(name) or not rest:
            raise UsageError(f"eval: {option} {value}: write NAME={what}")
        if name in named:
            raise UsageError(f"eval: {option} {name}: given twice")
        named[name] = rest
    return named


def _check(job: EvaluationJob, subjects: Mapping[str, str], turns: Mapping[str, str]) -> None:
    options = job.options
    if "model" in options.required:
        raise UsageError("eval: --only elo: name the models with --subject NAME=SPEC, not --model")
    if not subjects and "verdicts" not in job.extras:
        raise UsageError(
            "eval: --only elo: give two or more --subject NAME=SPEC, or --verdicts FILE"
        )
    if len(subjects) == 1:
        raise UsageError("eval: --only elo: one subject has nothing to be compared with")
    needed = {"data": options.required.get("data"), "judge": job.extras.get("judge")}
    missing = [f"--{name}" for name, value in needed.items() if value is None]
    if subjects and missing:
        raise UsageError(f"eval: --only elo: --subject needs {' and '.join(missing)}")
    if not subjects and len(missing) < 2:
        raise UsageError("eval: --only elo: --data and --judge are for --subject NAME=SPEC")
    if unknown := turns.keys() - subjects.keys():
        raise UsageError(f"eval: --turns {min(unknown)}: no --subject has this name")


def _verdicts(
    file: Path, draws: Sequence[PromptDraw], subjects: Mapping[str, str]
) -> list[JudgedPair]:
    """People's verdicts."""
    from cai.catalog.verdicts import read_verdicts

    rows, foreign = read_verdicts(file, draws, subjects)
    if foreign:
        print(
            f"{file}: {foreign:,} of {foreign + len(rows):,} verdicts left out: on another prompt"
            " than those of --data, or on another subject",
            file=sys.stderr,
        )
    if not rows:
        raise StoreError(f"{file}: no verdict to use")
    return rows


# ---- replies and comparisons ----


@dataclass(frozen=True)
class _Settings:
    """What is read before the first model is opened."""

    turns: Mapping[str, Chat]
    constitution: Constitution
    label: LabelConfig

    @classmethod
    def of(cls, job: EvaluationJob, turns: Mapping[str, str]) -> _Settings:
        from cai.catalog.comparisons import comparison_label
        from cai.constitution import load_constitution
        from cai.data.turns import read_turns

        label = comparison_label(job.extras.get("preset"))
        read = {name: read_turns(Path(file)) for name, file in turns.items()}
        return cls(read, load_constitution(job.constitution), label)

    def provenance(self, job: EvaluationJob, judge: LM) -> dict[str, str]:
        """What decides the judge's verdict on a pair."""
        from cai import store
        from cai.templates import templates_digest

        return {
            "config": store.digest(self.label),
            "seed": str(job.seed),
            "model": judge.fingerprint,
            "constitution": store.digest(self.constitution),
            "templates": templates_digest(),
            **job.options.endpoint.answer_settings(job.extras["judge"]),
        }


def _judged(
    job: EvaluationJob,
    draws: Sequence[PromptDraw],
    subjects: Mapping[str, str],
    settings: _Settings,
) -> list[JudgedPair]:
    """The judge's verdicts. Each model leaves memory before the next is opened."""
    from cai.evals.judged_pairs import JudgedPair, comparison_id, comparison_items, comparison_step
    from cai.generate.label import labeller

    replies = {
        name: _replies(job, draws, name, spec, settings.turns.get(name, ()))
        for name, spec in subjects.items()
    }
    items = comparison_items(draws, replies)
    about = {item.pair.source: item.category for item in items}
    kinds = {draw.prompt.id: draw.prompt.kind for draw in draws}
    output, judge = job.options.path("output"), job.extras["judge"]
    with open_logged(judge, output, job.options.endpoint) as lm:
        provenance = settings.provenance(job, lm)
        label = labeller(
            settings.constitution, lm, settings.label, job.seed,
            lambda pair: (kinds[pair.source], about[pair.source]),
        )  # fmt: skip
        file = output.with_suffix(".comparisons.jsonl")
        rows = _rows(file, items, comparison_step(label), JudgedPair, comparison_id, lm, provenance)
    by_id = {comparison_id(row): row for row in rows}
    return [by_id[item.id] for item in items]


def _replies(
    job: EvaluationJob, draws: Sequence[PromptDraw], name: str, spec: str, turns: Chat
) -> dict[str, SubjectReply]:
    from cai import store
    from cai.evals.judged_pairs import SubjectReply, reply_id, subject_step

    output = job.options.path("output")
    file = output.with_suffix(f".replies-{name}.jsonl")
    with open_logged(spec, output, job.options.endpoint) as lm:
        provenance = {
            "config": store.digest(job.config),
            "seed": str(job.seed),
            "model": lm.fingerprint,
            "turns": store.digest(*(turn for turn in turns)),
            **job.options.endpoint.answer_settings(spec),
        }
        step = subject_step(name, lm, turns, job.config, job.seed)
        rows = _rows(file, draws, step, SubjectReply, reply_id, lm, provenance)
    return {reply_id(row): row for row in rows}


def _rows(
    file: Path,
    items: Sequence[Any],
    step: Callable[[Any], Awaitable[Any]],
    kind: Any,
    source: Callable[[Any], str],
    lm: LM,
    provenance: Mapping[str, str],
) -> list[Any]:
    """The rows of a file that only this command writes."""
    from cai.cli.evaluation_rows import evaluated_rows
    from cai.cli.output_files import owned_output

    with owned_output(file, "eval", provenance):
        return evaluated_rows(file, items, (step, kind, source), [lm])


# ---- the terminal ----


def _print(scores: Sequence[Score], rows: Sequence[Row]) -> None:
    from rich.table import Table

    from cai.cli.null_rows import print_null_rows
    from cai.generate.unanswered import null_reason

    table = Table("metric", "subject", "mean", "95 % interval", "n", "unscored")
    for row in scores:
        digits = 0 if row.metric.startswith("elo.rating") else 3
        low, high = (_number(end, digits) for end in (row.ci_low, row.ci_high))
        interval = "–" if row.ci_low is None else f"{low} … {high}"
        mean = _number(row.mean, digits)
        table.add_row(row.metric, row.subject, mean, interval, str(row.n), str(row.unscored))
    print_table(table, 120)
    if any(row.metric == "elo.rating" and row.mean is None for row in scores):
        print(
            "eval: a rating is null where a subject only won or only lost, or was never compared",
            file=sys.stderr,
        )
    print_null_rows("eval", Counter(null_reason(row) for row in rows))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
