"""Commands that make ordered replies for a rubric, and fit its weights on such."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cai.cli.grades import named, with_rubric
from cai.cli.jsonl import read_lines
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import JobError, StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.rubric import CompiledRubric
    from cai.rubric.fit_weights import Ranked

app = typer.Typer()
BARS = "▁▂▃▄▅▆▇█"
PARTS = ("rm", "rubric", "rm+rubric")


@app.command(
    epilog="Example: cai near-miss --constitution harmless --prompts examples/prompts/sensitive.jsonl --output ordered.jsonl"
)
def near_miss(
    constitution: Annotated[str, typer.Option(help="A constitution whose rubric's propositions have examples.")],
    prompts: Annotated[list[Path], typer.Option("--prompts", help="Prompts with a kind; repeatable.")],
    output: Annotated[
        Path, typer.Option("--output", help="JSONL: {chat, kind, response, rank, class, aim, flipped, as_wished}.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Writes the replies; without one, the propositions' example sentences do.")
    ] = None,
    seed: int = 0,
) -> None:
    """Write ideal replies and their nearest misses, by class and by proposition; rank 0 is fit for fine-tuning."""
    from cai import store
    from cai.data.readers import prompt_rows
    from cai.rubric import compile_rubric
    from cai.rubric.near_miss import by_model, by_template, near_misses, support

    quiet()
    _, rubric = with_rubric(constitution)
    compiled = compile_rubric(rubric)
    asked = [p for file in prompts for p in prompt_rows(file) if p.kind is not None]
    if not asked:
        raise StoreError(f"{', '.join(map(str, prompts))}: no prompt with a kind in it")
    if model is None:
        write = by_template(rubric)
    else:
        from cai.lm import open_lm

        write = by_model(open_lm(model), compiled, seed)
    made = asyncio.run(near_misses(compiled, asked, write))
    lines = []
    for prompt, one in made:
        told = {"chat": [m.model_dump() for m in prompt.chat], "kind": prompt.kind, "response": one.response, "rank": one.rank}
        told |= {"class": one.class_, "aim": one.target.aim, "flipped": one.target.flipped, "as_wished": one.on_target}
        lines.append(json.dumps(told, ensure_ascii=False) + "\n")
    store.atomic_write(output, "".join(lines))
    table = Table("behaviour", "class or proposition", "replies", title=f"{len(made)} replies to {len(asked)} prompts")
    for behaviour, counts in support(compiled, [one for _, one in made]).items():
        for name, count in counts.items():
            table.add_row(behaviour, name, str(count) if count else "none")
    print_table(table)


@app.command(epilog="Example: cai fit --constitution harmless --input ordered.jsonl --output weights.yaml")
def fit(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSONL: {prompt or chat, kind, response, rank, reward?}; a lower rank is better.")
    ],
    output: Annotated[Path, typer.Option("--output", help="A constitution that adds the weights.")],
    margin: Annotated[float, typer.Option(help="By how much the better reply shall win.")] = 1.0,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the prompts kept for the report.")] = 0.2,
    free_signs: Annotated[
        bool, typer.Option("--free-signs", help="Let weights change the sign that the rubric gives them.")
    ] = False,
    seed: int = 0,
) -> None:
    """Fit a rubric's weights to ordered replies, and say how often rewards put held-out pairs in the wrong order."""
    import yaml

    from cai import store
    from cai.rubric import compile_rubric
    from cai.rubric.fit_weights import FitConfig, split_prompts
    from cai.rubric.fit_weights import fit as fitted

    loaded, rubric = with_rubric(constitution)
    compiled = compile_rubric(rubric)
    config = FitConfig(margin=margin, held_out=held_out, keep_signs=not free_signs)
    weights: dict[str, dict[str, float]] = {}
    rows = _ranked(source, compiled)
    if not rows:
        raise JobError(f"{source}: no row of a kind that the rubric speaks of")
    for behaviour, own in rows.items():
        learn, held = split_prompts([row for row, _ in own], config.held_out, seed)
        start = rubric.weights[behaviour]
        found = fitted(learn, start, config)
        weights[behaviour] = {name: round(value, 6) for name, value in found.weights.items()}
        print(f"{behaviour}: {found.pairs:,} pairs, hinge {found.loss:.4f}, reward scale {found.scale:.4g}")
        _report(behaviour, held or learn, start, weights[behaviour], found.scale, seed, held_out=bool(held))
        classes = {id(row): name for row, name in own}
        _histograms(behaviour, [(classes[id(row)], row) for row in held or learn], weights[behaviour], found.scale)
    said = {
        "name": loaded.name,
        "version": loaded.version,
        "extends": [named(constitution, output)],
        "rubric": {"weights": weights},
    }
    store.atomic_write(output, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


@app.command(epilog="Example: cai fit-text --input labelled.jsonl --licence MIT --output declines.json")
def fit_text(
    inputs: Annotated[list[Path], typer.Option("--input", help="JSONL: {prompt, response, holds: true or false}; repeatable.")],
    output: Annotated[Path, typer.Option("--output", help="JSON for `fitted:` of a proposition.")],
    licence: Annotated[list[str], typer.Option(help="Of each input, in their order: it goes into the output.")],
    runs: Annotated[int, typer.Option(min=10, help="Words and pairs of words that the model may know.")] = 3000,
    replies: Annotated[int, typer.Option(min=1, help="Replies in which such a run must be found to count.")] = 20,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the prompts on which it is tried first.")] = 0.2,
    seed: int = 0,
) -> None:
    """Fit a small text model that decides a proposition by the words of a reply. Rows may carry a `weight`."""
    from cai import store
    from cai.constitution.schema import TrainedOn
    from cai.evals.stats import estimate
    from cai.rubric.propositions import unquoted_text
    from cai.rubric.text_classifier import Labelled, TextFit, probability, split, words_of
    from cai.rubric.text_classifier import fit_text as fitted

    quiet()
    if len(licence) != len(inputs) or not all(terms.strip() for terms in licence):
        raise UsageError(f"--licence: {len(inputs)} inputs and {len(licence)} licences: name one for each input, in their order")
    config, rows, trained_on = TextFit(runs=runs, replies=replies), [], []
    for path, terms in zip(inputs, licence, strict=True):
        own = []
        for number, row in enumerate(read_lines(path, ("response",)), 1):
            holds, weight = row.data.get("holds"), row.data.get("weight", 1.0)
            if not isinstance(holds, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise StoreError(f"{path}:{number}: a line needs `holds` (true or false), and a `weight` above 0 if any")
            own.append(Labelled(row.prompt.id, words_of(unquoted_text(row.data["response"])), holds, float(weight)))
        if not own:
            raise StoreError(f"{path}: no row in it")
        rows += own
        trained_on.append(TrainedOn(name=path.stem, rows=len(own), licence=terms))
    learn, held = split(rows, held_out, seed)
    if held:
        tried = fitted(learn, config, trained_on)
        hits = [float((probability(tried, row.said) > 0.5) == row.holds) for row in held]
        score = estimate("fit-text.right", output.stem, hits, [row.prompt for row in held], proportion=True)
        print(f"held-out prompts: {estimate_text(score, '.1%')} right")
    model = fitted(rows, config, trained_on)
    store.atomic_write(output, json.dumps(model.model_dump(mode="json"), ensure_ascii=False, indent=0) + "\n")


def _ranked(source: Path, compiled: CompiledRubric) -> dict[str, list[tuple[Ranked, str]]]:
    """Behaviour -> replies with all features of their grade, and the class of each."""
    from cai.rubric import grade
    from cai.rubric.fit_weights import Ranked

    found: dict[str, list[tuple[Ranked, str]]] = defaultdict(list)
    for number, row in enumerate(read_lines(source, ("response",)), 1):
        place, kind, rank, reward = f"{source}:{number}", row.prompt.kind, row.data.get("rank"), row.data.get("reward")
        if kind is None or not isinstance(rank, int | float) or not isinstance(reward, int | float | None):
            raise StoreError(
                f"{place}: a line needs `kind`, `rank` (a number, lower is better), and `reward` as a number if at all"
            )
        behaviour = compiled.behaviours.get(kind)
        if behaviour is None:
            continue
        graded = grade(compiled, prompt=row.prompt.chat[-1].content, response=row.data["response"], kind=kind)
        features = {f.name: f.formula.probability(graded.propositions) for f in behaviour.features}
        ranked = Ranked(f"{row.prompt.id}", float(rank), features, None if reward is None else float(reward))
        found[behaviour.name].append((ranked, graded.class_ or "none"))
    return found


def _report(
    behaviour: str,
    rows: Sequence[Ranked],
    before: dict[str, float],
    after: dict[str, float],
    scale: float,
    seed: int,
    *,
    held_out: bool,
) -> None:
    """Pairwise error of each reward, and how much the fit changed it."""
    from cai.evals.stats import estimate, paired_bootstrap
    from cai.rubric.fit_weights import errors

    table = Table("reward", "pairs in the wrong order", title=f"{behaviour}: {'held-out' if held_out else 'training'} pairs")
    known = rows and all(row.reward is not None for row in rows)
    wrong = {"rubric as it was": errors(rows, before, scale, "rubric"), "rubric": errors(rows, after, scale, "rubric")}
    if known:
        wrong = {"rm": errors(rows, after, scale, "rm"), **wrong, "rm+rubric": errors(rows, after, scale, "rm+rubric")}
    for name, found in wrong.items():
        score = estimate(f"fit.error.{behaviour}", name, [e for _, e in found], [p for p, _ in found], proportion=True)
        table.add_row(name, estimate_text(score, ".1%"))
    base, best = ("rm", "rm+rubric") if known else ("rubric as it was", "rubric")
    clusters = [prompt for prompt, _ in wrong[best]]
    if clusters:
        difference = paired_bootstrap([e for _, e in wrong[best]], [e for _, e in wrong[base]], clusters, seed=seed)
        table.caption = (
            f"{best} against {base}: {_signed(difference.mean)} [{_signed(difference.ci_low)}, {_signed(difference.ci_high)}]"
        )
    print_table(table)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} points"


def _histograms(behaviour: str, rows: Sequence[tuple[str, Ranked]], weights: dict[str, float], scale: float) -> None:
    """A line of bars per class: where its replies' rewards lie between the lowest and the highest of all."""
    from cai.rubric.fit_weights import score

    parts = "rm+rubric" if rows and rows[0][1].reward is not None else "rubric"
    scores = [(name, score(row, weights, scale, parts)) for name, row in rows]
    low, high = min((s for _, s in scores), default=0.0), max((s for _, s in scores), default=0.0)
    table = Table("class", "n", "mean", f"{low:.2f} … {high:.2f}", title=f"{behaviour}: reward by class ({parts})")
    for name in dict.fromkeys(name for name, _ in scores):
        own = [s for other, s in scores if other == name]
        table.add_row(name, str(len(own)), f"{sum(own) / len(own):.2f}", "".join(_bars(own, low, high)))
    print_table(table)


def _bars(values: Sequence[float], low: float, high: float, bins: int = 20) -> Iterator[str]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins) if high > low else 0)] += 1
    for count in counts:
        yield " " if count == 0 else BARS[min(7, 8 * count // max(counts) - (count == max(counts)))]
