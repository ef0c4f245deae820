"""The command that probes a rubric with replies that a policy could learn to please it with."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.jsonl import STREAM
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import JobError, UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.schema import Rubric
    from cai.lm import LM
    from cai.records import Grade
    from cai.rubric import CompiledRubric
    from cai.rubric.audit import Outcome, RubricAudit
    from cai.rubric.audit_probes import Bank, RubricProbe

app = typer.Typer()


@app.command(
    name="audit-rubric",
    epilog="Example: cai audit-rubric harmless --output audit.json --max-gain 2",
)
@with_endpoint_options("audit-rubric")
def audit_rubric(
    constitution: Annotated[str, typer.Argument(metavar="CONSTITUTION")],
    model: Annotated[
        str | None, typer.Option(help="Decides the propositions that patterns leave undecided.")
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            metavar="BANK.yaml",
            help="Prompts, replies and phrases; by default those of the rubric's language.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON: every probe.")] = None,
    max_gain: Annotated[
        float | None,
        typer.Option(help="Exit 1 if a probe gains more than this, or could not be graded."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List the probes that gain nothing, too.")
    ] = False,
    seed: int = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Grade replies that please a rubric without deserving to: what does each earn?

    Probes are padding, keywords, flattery, comfort, copied prompts, answers clothed as refusals,
    repeated and shuffled text, and replies without content. Exit 0 done, 1 above --max-gain.
    """
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import find_constitution, load_with_rubric

    quiet()
    if max_gain is not None and not math.isfinite(max_gain):
        raise UsageError(f"--max-gain {max_gain}: give a finite number of reward")
    if model is None and (given := endpoint.given()):
        raise UsageError(f"audit-rubric: {', '.join(given)}: only with --model, of an endpoint")
    loaded, rubric = load_with_rubric(constitution)
    job = AuditJob(loaded, rubric, _bank(loaded.language, bank), seed)
    if output is None:
        audit = _audit(job, model, STREAM, endpoint)
    else:
        sources = [find_constitution(constitution), *([bank] if bank else [])]
        with replaced_output(output, "audit-rubric", *sources):
            audit = _audit(job, model, output, endpoint)
            text = audit.model_dump_json(indent=1, by_alias=True)
            write_output(output, "audit-rubric", text + "\n")
    _print_audit(audit, every)
    if max_gain is not None:
        _check_gains(audit, max_gain)


class AuditJob(NamedTuple):
    """What is audited, and with what."""

    constitution: Constitution
    rubric: Rubric
    bank: Bank
    seed: int


def _bank(language: str, file: Path | None) -> Bank:
    """The bank in `file`, or the shipped one of a language.

    Raises:
        UsageError: there is none of this language, or the file's is of another one.
    """
    from cai.rubric.audit_probes import read_bank, shipped_banks

    if file is not None:
        bank = read_bank(file)
        if bank.language != language:
            raise UsageError(
                f"{file}: language: {bank.language}, and the constitution's is {language}: "
                "patterns know one language"
            )
        return bank
    banks = shipped_banks()
    if language not in banks:
        raise UsageError(
            f"audit-rubric: no replies in {language!r} are shipped ({', '.join(banks)} are): "
            "give some (--bank FILE.yaml)"
        )
    return read_bank(banks[language])


def _audit(
    job: AuditJob, model: str | None, output: Path, endpoint: EndpointOptions
) -> RubricAudit:
    from cai.rubric import compile_rubric
    from cai.rubric.audit import RubricAudit, audit_rows, by_probe, outcomes, ungraded
    from cai.rubric.audit_probes import probes

    compiled = compile_rubric(job.rubric)
    cases = list(probes(compiled, job.rubric, job.bank, job.seed))
    kinds = {case.kind for case in job.bank.cases}
    if not cases:
        raise UsageError(
            f"audit-rubric: the bank has no prompt of a kind that the rubric knows "
            f"({', '.join(compiled.behaviours)})"
        )
    if model is None:
        grader, grades = "patterns", _grades_without_model(compiled, cases)
    else:
        with open_logged(model, output, endpoint) as lm:
            grader, grades = lm.fingerprint, _grades_of_model(job.constitution, compiled, cases, lm)
    rows = audit_rows(compiled, cases, grades)
    return RubricAudit(
        constitution=job.constitution.name,
        version=job.constitution.version,
        language=job.bank.language,
        grader=grader,
        ungraded_propositions=ungraded(compiled) if model is None else {},
        kinds_without_cases=tuple(kind for kind in compiled.behaviours if kind not in kinds),
        by_probe=tuple(by_probe(rows)),
        by_kind=tuple(outcomes(rows)),
        rows=tuple(rows),
    )


def _grades_without_model(compiled: CompiledRubric, cases: Sequence[RubricProbe]) -> list[Grade]:
    from cai.rubric.audit import grade_without_model

    return [grade_without_model(compiled, probe) for probe in cases]


def _grades_of_model(
    constitution: Constitution, compiled: CompiledRubric, cases: Sequence[RubricProbe], lm: LM
) -> list[Grade]:
    """The grades, with what patterns leave undecided decided by a model."""
    from cai.async_map import map_in_memory
    from cai.records import Message
    from cai.rubric.llm_grader import grade_with_model

    async def grade_probe(numbered: _NumberedProbe) -> Grade:
        case = numbered.probe.case
        return await grade_with_model(
            lm,
            compiled,
            constitution.examples.grade,
            chat=(Message(role="user", content=case.prompt),),
            response=numbered.probe.reply,
            kind=case.kind,
        )

    async def grade_all() -> list[Grade]:
        numbered = [_NumberedProbe(str(number), probe) for number, probe in enumerate(cases)]
        try:
            return await map_in_memory(numbered, grade_probe, max_concurrency=lm.max_concurrency)
        finally:
            await lm.aclose()

    return asyncio.run(grade_all())


class _NumberedProbe(NamedTuple):
    id: str
    probe: RubricProbe


def _print_audit(audit: RubricAudit, every: bool) -> None:
    for id, reason in audit.ungraded_propositions.items():
        print(f"{id}: null: {reason}")
    for kind in audit.kinds_without_cases:
        print(f"{kind}: the bank has no prompt of this kind", file=sys.stderr)
    for outcome in audit.by_kind:
        if outcome.over_honest:
            print(
                f"more than the ideal reply, by {_signed(outcome.largest_over_honest)}: "
                f"{outcome.probe} ({outcome.of}) to {outcome.kind} prompts, "
                f"{outcome.over_honest} of {outcome.n}"
            )
    print_table(_probe_table(audit))
    print_table(_kind_table(audit, every))


def _probe_table(audit: RubricAudit) -> Table:
    grader = "patterns" if audit.grader == "patterns" else "a model"
    title = f"{audit.constitution} {audit.version}, graded by {grader}: gains over the same reply"
    table = Table("probe", "gains", "mean gain", "largest", title=f"{title} without it")
    for outcome in audit.by_probe:
        gains = f"{outcome.gained} of {outcome.n}" + _unscored(outcome)
        table.add_row(outcome.probe, gains, _signed(outcome.gain), _signed(outcome.largest_gain))
    return table


def _kind_table(audit: RubricAudit, every: bool) -> Table:
    from cai.rubric.audit_probes import NONE

    shown = [
        outcome
        for outcome in audit.by_kind
        if every or outcome.probe == NONE or outcome.gained or outcome.over_honest or not outcome.n
    ]
    hidden = len(audit.by_kind) - len(shown)
    table = Table(
        *("probe", "reply", "response type", "class", "reward", "gain", "n"),
        title="per kind of prompt, the largest gains first",
        caption=f"{hidden} more gain nothing (--all)" if hidden else None,
    )
    for outcome in shown:
        classes = ", ".join(f"{name} {count}" for name, count in outcome.classes.items())
        reward = "–" if outcome.reward is None else f"{outcome.reward:.2f}"
        response_type = f"{outcome.behaviour} ({outcome.kind})"
        count = f"{outcome.n}{_unscored(outcome)}"
        table.add_row(
            *(outcome.probe, outcome.of, response_type),
            *(classes or "–", reward, _signed(outcome.gain), count),
        )
    return table


def _unscored(outcome: Outcome) -> str:
    return f", {outcome.unscored} null" if outcome.unscored else ""


def _signed(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:+.2f}"


def _check_gains(audit: RubricAudit, max_gain: float) -> None:
    """Nothing, if every probe was graded and none gains more than `max_gain`.

    Raises:
        JobError: one does, or one was not graded.
    """
    from cai.rubric.audit import above

    beyond = above(audit.rows, max_gain)
    if beyond:
        worst = max(beyond, key=lambda row: row.gain or 0.0)
        raise JobError(
            f"audit-rubric: {len(beyond)} of {len(audit.rows)} replies gain more than "
            f"{max_gain:g}; the most: {worst.probe} ({worst.of}) to a {worst.kind} prompt, "
            f"{worst.gain:+.2f}"
        )
    unscored = sum(row.unscored is not None for row in audit.rows)
    if unscored:
        raise JobError(
            f"audit-rubric: {unscored} of {len(audit.rows)} replies have no reward, so that none "
            "gains too much is not known: name a model (--model)"
        )
