"""The command that proposes a rubric from labelled pairs."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cai.cli.columns import Choice, Columns, column_names
from cai.cli.jsonl import FORMATS
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import JobError, UsageError

if TYPE_CHECKING:
    from cai.data.reply_pairs import PairOptions
    from cai.records import Kind
    from cai.rubric.pair_features import TextPair
    from cai.rubric.propose import HeldOut, ProposeConfig, ProposedFeature

app = typer.Typer()
MIN_PAIRS, MIN_PROMPTS = 100, 50
NO_PREFERENCE = "no reply is the better one"


@app.command(
    name="propose-rubric",
    epilog="Example: cai propose-rubric --input labelled.jsonl --output proposed.yaml",
)
def propose_rubric(
    source: Annotated[
        Path, typer.Option("--input", help=f"Pairs with the better reply, as cai label: {FORMATS}")
    ],
    output: Annotated[Path, typer.Option("--output", help="YAML: a constitution with a rubric.")],
    name: Annotated[str, typer.Option(help="Of the constitution.")] = "proposed",
    language: Annotated[str, typer.Option(help="Of the replies: two or three letters.")] = "en",
    propositions: Annotated[int, typer.Option(min=1, max=16, help="Propositions, at most.")] = 8,
    pairs: Annotated[
        int, typer.Option(min=2, help="Pairs in which exactly one reply has a phrase, at least.")
    ] = 20,
    prompts: Annotated[
        int, typer.Option(min=2, help="Prompts, or users, of these pairs, at least.")
    ] = 10,
    limit: Annotated[
        int, typer.Option(min=MIN_PAIRS, help="Pairs that are used, at most, drawn by the seed.")
    ] = 20_000,
    choice: Choice = None,
    columns: Columns = None,
    seed: int = 0,
) -> None:
    """Propose a rubric: phrases and features that tell chosen replies from rejected ones.

    Each proposition holds on prompts that it was not chosen on. What comes out is a starting point,
    to be read by a person. Exit 1 where the pairs are too few, or nothing tells them apart.
    """
    from cai.cli.output_files import replaced_output, write_output
    from cai.data.reply_pairs import PROBABILITIES, REPLY_FIELDS, PairOptions
    from cai.rubric.propose import ProposeConfig
    from cai.rubric.proposed_yaml import READ_THEM, proposed_rubric, proposed_yaml

    quiet()
    _check_names(name, language)
    config = ProposeConfig(propositions=propositions, pairs=pairs, prompts=prompts)
    options = PairOptions(column_names(columns, (*REPLY_FIELDS, *PROBABILITIES)), choice)
    with replaced_output(output, "propose-rubric", source):
        rows = _drawn(source, options, limit, seed)
        _check_sources(source, rows, prompts)
        features, held_out = _proposed(source, rows, language, config, seed)
        summary = _summary(rows, held_out)
        rubric = proposed_rubric(features, _kinds(rows), language)
        text = proposed_yaml(name, language, rubric, features, summary)
        write_output(output, "propose-rubric", text)
    print_table(_features_table(list(rubric["propositions"])[1:], features))
    for line in summary:
        print(line)
    print(f"{output} is {READ_THEM}.")


def _check_names(name: str, language: str) -> None:
    """Nothing, if both are what a constitution takes.

    Raises:
        UsageError: one is not.
    """
    from pydantic import ValidationError

    from cai.constitution.schema import Constitution

    try:
        Constitution(name=name, version="0.1.0", language=language)
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        wants = "letters, digits, - and _" if key == "name" else "two or three lower-case letters"
        raise UsageError(f"--{key}: a constitution's {key} is {wants}") from None


def _drawn(source: Path, options: PairOptions, limit: int, seed: int) -> list[TextPair]:
    """The pairs of a file, at most `limit`, in its order; no more than these are held in memory.

    Raises:
        JobError: they are too few.
    """
    from cai.seeds import rng

    skipped: Counter[str] = Counter()
    numbered = enumerate(_text_pairs(source, options, skipped))
    drawn = heapq.nsmallest(
        limit + 1, numbered, key=lambda entry: rng(seed, "propose", entry[0]).random()
    )
    for reason, count in skipped.items():
        print(f"{source}: {count} rows skipped: {reason}", file=sys.stderr)
    if len(drawn) > limit:
        print(f"{source}: {limit:,} pairs of more are used (--limit)", file=sys.stderr)
    rows = [row for _, row in sorted(drawn[:limit], key=lambda entry: entry[0])]
    prompts = len({row.key for row in rows})
    if len(rows) < MIN_PAIRS or prompts < MIN_PROMPTS:
        raise JobError(
            f"{source}: {len(rows)} labelled pairs of {prompts} prompts: too few to test anything "
            f"on prompts left out: give at least {MIN_PAIRS} pairs of {MIN_PROMPTS} prompts"
        )
    return rows


def _check_sources(source: Path, rows: Sequence[TextPair], least: int) -> None:
    """Nothing, if the pairs are of enough prompts or users for any phrase to be a candidate.

    Raises:
        JobError: they are not.
    """
    sources = len({row.source for row in rows})
    if sources < least:
        raise JobError(
            f"{source}: the `user` of the prompts has {sources} values, and a phrase has to be in "
            f"pairs of {least} users: lower --prompts, or leave `user` out if it is not whose the "
            "prompt is"
        )


def _text_pairs(source: Path, options: PairOptions, skipped: Counter[str]) -> Iterator[TextPair]:
    """The pairs of which one reply is the better one; `skipped` counts the others, by reason."""
    from cai.data.filters import prompt_key
    from cai.data.preferences import labelled_pairs
    from cai.modeling.thoughts import CUT_THOUGHT, split_thoughts
    from cai.rubric.pair_features import TextPair

    for pair in labelled_pairs(source, None, skipped, options):
        splits = [split_thoughts(text) for text in (pair.first, pair.second)]
        if pair.p_first == 0.5:
            skipped[NO_PREFERENCE] += 1
        elif any(split.lacks_reply for split in splits):
            skipped[CUT_THOUGHT] += 1
        else:
            better, worse = splits if pair.p_first > 0.5 else splits[::-1]
            prompt, key = pair.prompt, prompt_key(pair.prompt)
            user = f"user {prompt.user}" if prompt.user else key
            text = prompt.chat[-1].content
            yield TextPair(text, key, user, prompt.kind, better.text, worse.text)


def _kinds(rows: Sequence[TextPair]) -> list[Kind]:
    """The kinds of the prompts; empty where one is unknown, as the rubric is for all then."""
    from cai.rubric.proposed_yaml import KINDS

    present = {row.kind for row in rows}
    return [] if None in present else [kind for kind in KINDS if kind in present]


def _proposed(
    source: Path, rows: Sequence[TextPair], language: str, config: ProposeConfig, seed: int
) -> tuple[list[ProposedFeature], HeldOut]:
    """(the propositions, the accuracy of such proposals on held-out prompts).

    Raises:
        JobError: nothing tells chosen from rejected replies.
    """
    import numpy as np

    from cai.rubric.pair_features import pair_table
    from cai.rubric.propose import find_propositions, held_out_accuracy, longer_reply
    from cai.rubric.proposed_yaml import percent

    table = pair_table(rows, language)
    features = find_propositions(table, np.arange(len(table)), config, seed)
    held_out = held_out_accuracy(table, config, seed) if features else None
    low = held_out.accuracy.ci_low if held_out is not None else None
    if held_out is not None and low is not None and low > 0.5:
        return features, held_out
    accuracy = "" if held_out is None else f", accuracy {percent(held_out.accuracy)}"
    raise JobError(
        f"{source}: nothing tells chosen from rejected replies on prompts left out ({len(table):,} "
        f"pairs{accuracy}; the longer reply is the chosen one in {percent(longer_reply(table))}): "
        "give more pairs, or write the rubric by hand"
    )


def _summary(rows: Sequence[TextPair], held_out: HeldOut) -> list[str]:
    from cai.rubric.proposed_yaml import held_out_text

    prompts = len({row.key for row in rows})
    return [
        f"Proposed from {len(rows):,} labelled pairs of {prompts:,} prompts.",
        held_out_text(held_out),
    ]


def _features_table(ids: Sequence[str], features: Sequence[ProposedFeature]) -> Table:
    from cai.rubric.proposed_yaml import percent

    table = Table(
        *("proposition", "weight", "in chosen", "in rejected", "only one has it", "prompts"),
        title="on held-out folds",
    )
    for id, feature in zip(ids, features, strict=True):
        evidence = feature.evidence
        table.add_row(
            *(id, f"{feature.weight:+.2f}", percent(evidence.chosen), percent(evidence.rejected)),
            *(f"{evidence.only_chosen} : {evidence.only_rejected}", f"{evidence.prompts}"),
        )
    return table
