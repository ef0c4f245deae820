"""Propositions that tell the chosen replies of labelled pairs from the rejected ones.

    minimise over w, v:  mean_i log(1 + exp(-(w·x_i + v c_i))) + penalty |w|_1

x_i is +1 for each feature that only the chosen reply of pair i has, -1 for each that only the
rejected one has, c_i the difference of the replies' log lengths. The penalty is chosen on held-out
folds of prompts. A proposition is kept if most folds choose it without the prompts on which it is
then tested, and it holds there: its share is larger in chosen replies than in rejected ones (or
smaller), by an interval that allows for the number of propositions that were tested.

The accuracy of the result is measured on further folds, each of which has no part in any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from cai.records import FrozenModel, Score
from cai.rubric.pair_features import Array, Indices, PairTable
from cai.rubric.sparse_logistic import fit_signed, fit_sparse, log_loss, penalty_path
from cai.seeds import derive, rng
from cai.statistics.estimates import estimate
from cai.statistics.paired import Difference, paired_difference

FOLDS = 5
CHOSEN_IN = 3
"""Of the folds, how many have to choose a proposition."""
SCREENED = 300
"""Candidates that a fit sees: those with the clearest difference of counts in its training part."""
MAX_SHARE = 0.2
"""Of the pairs with an n-gram, the largest share that one source may have."""
LEVEL = 0.05
"""Of the test of all propositions together (Bonferroni)."""
MAX_COSINE = 0.7
"""Of the differences of two features over the pairs; of more alike ones only one is proposed."""
LEAST_WEIGHT = 0.05
"""Propositions of smaller weight add nothing to the others."""
CLASS_WEIGHTS = {"preferred": 1.0, "neutral": 0.0, "other": -1.0}
"""From best to worst; the propositions' weights come on top."""
Mask = NDArray[np.bool_]


class ProposeConfig(FrozenModel):
    """Settings of the search."""

    propositions: int = Field(8, ge=1, le=16)
    """At most so many in the rubric."""
    pairs: int = Field(20, ge=2)
    """Pairs in which exactly one reply has an n-gram, at least."""
    prompts: int = Field(10, ge=2)
    """Prompts (or users, where rows name them) of these pairs, at least."""


@dataclass(frozen=True)
class Evidence:
    """How often replies to held-out prompts have a feature."""

    chosen: Score
    rejected: Score
    difference: Difference
    """The share in chosen replies minus that in rejected ones."""
    only_chosen: int
    """Pairs of which only the chosen reply has it."""
    only_rejected: int
    prompts: int
    """Of the pairs in which exactly one reply has it."""


@dataclass(frozen=True)
class ProposedFeature:
    """A proposition that holds on held-out folds."""

    name: str
    """Of the feature, as in the table."""
    weight: float
    """In the score: above 0 for those of chosen replies, below for those of rejected ones."""
    evidence: Evidence


def split_rows(table: PairTable, rows: Indices, seed: int, *address: object) -> list[Indices]:
    """`FOLDS` parts of the rows, with all pairs of a prompt in one of them."""
    keys = sorted(
        {table.prompts[row] for row in rows}, key=lambda key: rng(seed, *address, key).random()
    )
    part_of = {key: index % FOLDS for index, key in enumerate(keys)}
    parts = np.array([part_of[table.prompts[row]] for row in rows])
    return [rows[parts == part] for part in range(FOLDS)]


def find_propositions(
    table: PairTable, rows: Indices, config: ProposeConfig, seed: int
) -> list[ProposedFeature]:
    """The propositions of some rows of the table, those with the clearest evidence first; may be
    empty.
    """
    difference_NF = (table.chosen_NF - table.rejected_NF).tocsr()
    parts = split_rows(table, rows, derive(seed, "inner"))
    signs_KF = _chosen_signs(table, difference_NF, parts, config)
    if signs_KF is None:
        return []
    times_F, votes_F = np.abs(signs_KF).sum(0), signs_KF.sum(0)
    stable = np.flatnonzero((times_F >= CHOSEN_IN) & (np.abs(votes_F) == times_F))
    chosen_NS = table.chosen_NF[:, stable].toarray()
    rejected_NS = table.rejected_NF[:, stable].toarray()
    tested = []
    for index, column in enumerate(stable.tolist()):
        held_out = np.sort(
            np.concatenate(
                [part for part, signs in zip(parts, signs_KF, strict=True) if signs[column]]
            )
        )
        prompts = [table.prompts[row] for row in held_out.tolist()]
        evidence = _evidence(chosen_NS[held_out, index], rejected_NS[held_out, index], prompts)
        margin = _margin(evidence, np.sign(votes_F[column]), len(set(prompts)), len(stable))
        if margin > 0:
            tested.append((margin, column, evidence))
    # of equally clear ones the longer n-gram, which says more to a reader
    tested.sort(key=lambda entry: (-round(entry[0], 9), -len(table.names[entry[1]]), entry[1]))
    clearest = [column for _, column, _ in tested]
    columns = _distinct(difference_NF[rows].tocsc(), clearest)[: config.propositions]
    if not columns:
        return []
    signs = np.sign(votes_F[columns]).astype(float)
    weights = fit_signed(difference_NF[rows][:, columns].toarray(), table.length_N[rows], signs)
    evidence_of = {column: evidence for _, column, evidence in tested}
    return [
        ProposedFeature(table.names[column], round(float(weight), 3), evidence_of[column])
        for weight, column in zip(weights, columns, strict=True)
        if abs(weight) >= LEAST_WEIGHT
    ]


def _distinct(difference_NF: Any, columns: Sequence[int]) -> list[int]:
    """The columns without those that say nearly the same of the pairs as one before them."""
    vectors = {column: difference_NF[:, [column]].toarray().ravel() for column in columns}
    kept: list[int] = []
    for column in columns:
        vector = vectors[column]
        norms = [np.linalg.norm(vector) * np.linalg.norm(vectors[other]) for other in kept]
        products = [abs(float(vector @ vectors[other])) for other in kept]
        alike = zip(products, norms, strict=True)
        if not any(product > MAX_COSINE * float(norm) for product, norm in alike):
            kept.append(column)
    return kept


def _chosen_signs(
    table: PairTable, difference_NF: Any, parts: Sequence[Indices], config: ProposeConfig
) -> Array | None:
    """(fold, feature) -> +1 or -1 where a fit without that fold chooses the feature, else 0.

    None: no penalty predicts the folds left out better than the difference in length does.
    """
    every = np.concatenate(parts)
    penalties = penalty_path(difference_NF[every], table.length_N[every])
    losses = np.zeros(len(penalties))
    signs_LKF = np.zeros((len(penalties), len(parts), difference_NF.shape[1]), dtype=np.int8)
    for fold, held_out in enumerate(parts):
        train = np.concatenate([part for index, part in enumerate(parts) if index != fold])
        columns = screened(table, difference_NF, train, config)
        x_NC, x_held_out = difference_NF[train][:, columns], difference_NF[held_out][:, columns]
        fits = fit_sparse(x_NC, table.length_N[train], penalties)
        for index, (weights_C, slope) in enumerate(fits):
            margins = x_held_out @ weights_C + slope * table.length_N[held_out]
            losses[index] += log_loss(margins) * len(held_out)
            signs_LKF[index, fold, columns] = np.sign(weights_C)
    best = int(np.argmin(losses))
    # the first penalty is so large that every weight is 0: the fit of the length alone
    return None if best == 0 else signs_LKF[best].astype(float)


def screened(table: PairTable, difference_NF: Any, rows: Indices, config: ProposeConfig) -> Indices:
    """Columns that may be propositions, by the training rows alone, the clearest `SCREENED`.

    Exactly one reply has the n-gram in enough pairs, of enough sources, and no source has more than
    `MAX_SHARE` of them.
    """
    part = difference_NF[rows].tocsc()
    only_chosen = np.asarray((part > 0).sum(0)).ravel()
    only_rejected = np.asarray((part < 0).sum(0)).ravel()
    total = only_chosen + only_rejected
    frequent = np.flatnonzero(total >= config.pairs)
    clear = np.abs(only_chosen - only_rejected)[frequent] / np.sqrt(total[frequent])
    columns = []
    for column in frequent[np.argsort(-clear, kind="stable")]:
        column_rows = part.indices[part.indptr[column] : part.indptr[column + 1]]
        values = part.data[part.indptr[column] : part.indptr[column + 1]]
        counts = np.unique(table.source_N[rows[column_rows[values != 0]]], return_counts=True)[1]
        if len(counts) >= config.prompts and counts.max() <= MAX_SHARE * counts.sum():
            columns.append(int(column))
        if len(columns) == SCREENED:
            break
    return np.array(sorted(columns), dtype=np.int64)


def _evidence(chosen: Array, rejected: Array, prompts: Sequence[str]) -> Evidence:
    differs = np.flatnonzero(chosen != rejected)
    return Evidence(
        chosen=estimate("share", "chosen", chosen.tolist(), prompts),
        rejected=estimate("share", "rejected", rejected.tolist(), prompts),
        difference=paired_difference(chosen.tolist(), rejected.tolist(), prompts, proportion=True),
        only_chosen=int((chosen > rejected).sum()),
        only_rejected=int((rejected > chosen).sum()),
        prompts=len({prompts[index] for index in differs.tolist()}),
    )


def _margin(evidence: Evidence, sign: float, prompts: int, tests: int) -> float:
    """By how many standard errors the difference is beyond the limit of `tests` tests; below 0: it
    does not hold on held-out prompts.

    Args:
        prompts: of the held-out pairs. Where all pairs differ alike, the error is as if one prompt
            did not.
    """
    difference = evidence.difference
    if difference.mean is None or difference.stderr is None:
        return -np.inf
    limit = float(stats.norm.ppf(1 - LEVEL / (2 * tests)))
    return sign * difference.mean / max(difference.stderr, 1 / prompts) - limit


def scores(
    table: PairTable, rows: Indices, features: Sequence[ProposedFeature]
) -> tuple[Array, Array]:
    """The rubric's scores of the rows' chosen and rejected replies."""
    columns = [table.names.index(proposition.name) for proposition in features]
    weights = np.array([proposition.weight for proposition in features])
    empty = np.array([table.is_empty[row] for row in rows], dtype=bool).reshape(-1, 2)
    chosen = table.chosen_NF[rows][:, columns].toarray() if columns else np.zeros((len(rows), 0))
    rejected = (
        table.rejected_NF[rows][:, columns].toarray() if columns else np.zeros((len(rows), 0))
    )
    return _score(chosen, weights, empty[:, 0]), _score(rejected, weights, empty[:, 1])


def _score(holds_NP: Array, weights_P: Array, is_empty_N: Mask) -> Array:
    """The class's weight plus those of the propositions that hold."""
    wanted = holds_NP[:, weights_P > 0].any(1)
    unwanted = holds_NP[:, weights_P < 0].any(1)
    preferred, neutral, other = CLASS_WEIGHTS.values()
    if not (weights_P < 0).any():
        class_N = np.where(wanted, preferred, other)
    elif not (weights_P > 0).any():
        class_N = np.where(unwanted, other, preferred)
    else:
        class_N = np.where(
            wanted & ~unwanted, preferred, np.where(unwanted & ~wanted, other, neutral)
        )
    return np.where(is_empty_N, other, class_N) + holds_NP @ weights_P


@dataclass(frozen=True)
class HeldOut:
    """Pairs on which rubrics that did not see their prompts put the chosen reply first."""

    accuracy: Score
    """A tie counts half."""
    ties: int
    longer: Score
    """The baseline that prefers the longer reply."""
    folds: int
    """Of `FOLDS`, those in which anything was proposed."""


def held_out_accuracy(table: PairTable, config: ProposeConfig, seed: int) -> HeldOut:
    """The accuracy of the search, repeated without each fold in turn."""
    every = np.arange(len(table))
    parts = split_rows(table, every, derive(seed, "outer"))
    right = np.full(len(table), 0.5)
    folds = 0
    for fold, held_out in enumerate(parts):
        train = np.concatenate([part for index, part in enumerate(parts) if index != fold])
        features = find_propositions(table, np.sort(train), config, derive(seed, "fold", fold))
        if features:
            folds += 1
            chosen, rejected = scores(table, held_out, features)
            right[held_out] = _verdicts(chosen - rejected)
    return HeldOut(
        accuracy=estimate("accuracy", "pairs", right.tolist(), table.prompts, proportion=True),
        ties=int((right == 0.5).sum()),
        longer=longer_reply(table),
        folds=folds,
    )


def longer_reply(table: PairTable) -> Score:
    """How often the longer reply is the chosen one; equal lengths count half."""
    longer = _verdicts(table.length_N).tolist()
    return estimate("longer", "pairs", longer, table.prompts, proportion=True)


def _verdicts(differences: Array) -> Array:
    """1 where the chosen reply is ahead, one half for a tie, else 0."""
    return (np.sign(np.where(np.abs(differences) < 1e-9, 0.0, differences)) + 1) / 2
