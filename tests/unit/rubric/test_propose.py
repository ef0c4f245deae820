"""Propositions from labelled pairs: planted ones are proposed, chance ones are not."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import load_constitution
from cai.constitution.schema import Rubric
from cai.records import Kind
from cai.rubric import check_rubric, compile_rubric, grade
from cai.rubric.pair_features import PairTable, TextPair, ngram_pattern, ngrams, pair_table
from cai.rubric.propose import (
    Evidence,
    ProposeConfig,
    ProposedFeature,
    find_propositions,
    held_out_accuracy,
    scores,
    screened,
    split_rows,
)
from cai.rubric.proposed_yaml import proposed_rubric, proposed_yaml, proposition_ids
from cai.rubric.sparse_logistic import fit_signed, fit_sparse, penalty_path
from cai.statistics.estimates import estimate
from cai.statistics.paired import paired_difference

WORDS = "carpet dog engine flower garden house iron jungle kettle lamp moon night queen river"
CONFIG = ProposeConfig()
KINDS: list[Kind] = ["benign"]


def pair(chosen: str, rejected: str, prompt: str = "q", source: str | None = None) -> TextPair:
    return TextPair(prompt, prompt, source or prompt, None, chosen, rejected)


def planted(count: int, seed: int, *, labels: bool = True) -> PairTable:
    """Chosen replies say "thanks for asking" in 60 %, rejected ones in 10 %; else chance words.

    Args:
        labels: False: which reply is the chosen one is drawn at random.
    """
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        texts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(6, 16))) for _ in range(2)]
        shares = (0.6, 0.1)
        replies = [
            f"Thanks for asking, {text}." if draw.random() < share else f"{text}."
            for text, share in zip(texts, shares, strict=True)
        ]
        if not labels and draw.random() < 0.5:
            replies.reverse()
        rows.append(pair(replies[0], replies[1], f"question {i // 2}"))
    return pair_table(rows, "en")


def dummy(name: str, weight: float) -> ProposedFeature:
    share = estimate("share", "chosen", [1, 0, 1], ["a", "b", "c"])
    difference = paired_difference([1, 0, 1], [0, 0, 0], ["a", "b", "c"])
    return ProposedFeature(name, weight, Evidence(share, share, difference, 2, 0, 2))


def test_ngrams_are_words_and_neighbours_in_one_clause() -> None:
    text = "i'm sorry, but no. call 555 or a_b now"
    assert list(ngrams(text)) == [
        *("i'm", "sorry", "but", "no", "call", "or", "now"),
        *("i'm sorry", "sorry but", "but no"),
    ]


def test_a_table_by_hand() -> None:
    """Both prompts have "yes"; "maybe" is in one prompt's replies alone, and is left out."""
    table = pair_table([pair("Yes! Maybe.", "no", "p"), pair("no", "yes, no", "q")], "en")
    assert set(table.names) == {"yes", "no"}
    column = table.names.index("yes")
    assert table.chosen_NF[:, [column]].toarray().ravel().tolist() == [1, 0]
    assert table.rejected_NF[:, [column]].toarray().ravel().tolist() == [0, 1]
    assert table.length_N.tolist() == pytest.approx([math.log(3 / 2), math.log(2 / 3)])


def test_a_planted_phrase_is_proposed_with_its_shares() -> None:
    table = planted(300, seed=1)
    features = find_propositions(table, np.arange(300), CONFIG, seed=0)
    (first, *others) = features
    assert first.name in ("thanks for", "for asking")
    assert first.weight > 0
    assert first.evidence.chosen.mean == pytest.approx(0.6, abs=0.08)
    assert first.evidence.rejected.mean == pytest.approx(0.1, abs=0.05)
    assert not [other for other in others if "thanks" in other.name], "one of those alike"
    held_out = held_out_accuracy(table, CONFIG, seed=0)
    low = held_out.accuracy.ci_low
    assert low is not None
    assert low > 0.6


@pytest.mark.parametrize("seed", range(3))
def test_labels_at_random_propose_nothing(seed: int) -> None:
    table = planted(200, seed, labels=False)
    assert find_propositions(table, np.arange(200), CONFIG, seed=0) == []


def test_length_alone_is_not_proposed() -> None:
    """Chosen replies are twice as long, of the same words: each word is in more of them."""
    draw = random.Random(0)
    rows = []
    for i in range(300):
        chosen, rejected = (" ".join(draw.choices(WORDS.split(), k=k)) for k in (16, 8))
        rows.append(pair(chosen, rejected, f"question {i}"))
    table = pair_table(rows, "en")
    assert find_propositions(table, np.arange(300), CONFIG, seed=0) == []


def test_phrases_of_one_prompt_or_one_user_are_no_candidates() -> None:
    """30 pairs with "yes": of 15 prompts they are enough; not with 7 of them by one user."""
    rows = [pair("yes", "no", f"p{i // 2}") for i in range(30)]
    by_one = [row._replace(source="ann") if i < 7 else row for i, row in enumerate(rows)]
    few = [row._replace(source=f"u{i % 9}") for i, row in enumerate(rows)]
    counts = []
    for pairs in (rows, by_one, few):
        table = pair_table(pairs, "en")
        difference = (table.chosen_NF - table.rejected_NF).tocsr()
        columns = screened(table, difference, np.arange(30), CONFIG)
        counts.append(sorted(table.names[column] for column in columns))
    assert counts == [["no", "yes"], [], []]


def test_prompts_are_on_one_side_of_a_split() -> None:
    table = planted(60, seed=0)
    parts = split_rows(table, np.arange(60), 0)
    prompts = [{table.prompts[row] for row in part} for part in parts]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 30
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))


def test_a_sparse_fit_by_hand() -> None:
    """Eight pairs for, two against, no covariate: at penalty P the weight w has
    0.8·σ(-w) - 0.2·σ(w) = P, so for P = 0.1 σ(w) = 0.7 and w = ln(7/3); at 0.3 = mean gradient
    at 0 it is 0.
    """
    x = np.array([[1.0]] * 8 + [[-1.0]] * 2)
    zeros = np.zeros(10)
    (none, _), (some, _) = fit_sparse(x, zeros, [0.3, 0.1])
    assert none.tolist() == [0.0]
    assert some[0] == pytest.approx(math.log(7 / 3), abs=1e-3)
    assert penalty_path(x, zeros)[1] == pytest.approx(0.3)
    assert fit_signed(x, zeros, np.array([1.0]))[0] == pytest.approx(math.log(4), abs=0.02)
    assert fit_signed(x, zeros, np.array([-1.0]))[0] == 0.0


def graded(data: dict[str, Any], reply: str) -> tuple[str | None, float | None]:
    compiled = compile_rubric(Rubric.model_validate(data))
    result = grade(compiled, prompt="q", response=reply, kind="benign")
    return result.class_, result.score


def test_a_rubric_by_hand() -> None:
    features = [dummy("thanks for", 1.5), dummy("#exclaims", -0.5)]
    data = proposed_rubric(features, KINDS, "en")
    assert graded(data, "Thanks, for that.") == ("preferred", 2.5)
    assert graded(data, "Thanks for that!") == ("neutral", 1.0)
    assert graded(data, "For thanks.") == ("neutral", 0.0)
    assert graded(data, "No!") == ("other", -1.5)
    assert graded(data, "") == ("other", -1.0)
    wanted = proposed_rubric(features[:1], KINDS, "en")
    assert graded(wanted, "No.") == ("other", -1.0)
    unwanted = proposed_rubric(features[1:], KINDS, "en")
    assert graded(unwanted, "No.") == ("preferred", 1.0)
    assert graded(unwanted, "") == ("other", -1.0)


def test_scores_are_those_of_the_rubric() -> None:
    """What is measured on held-out pairs is what `cai grade` gives."""
    texts = ["Thanks for that.", "Thanks for that!", "No!", "No.", "...", "thanks"]
    rows = [
        pair(a, b, f"p{i}{j}") for i, a in enumerate(texts) for j, b in enumerate(texts) if a != b
    ]
    table = pair_table(rows, "en")
    for features in (
        [dummy("thanks for", 1.5), dummy("#exclaims", -0.5)],
        [dummy("thanks", 1.5)],
        [dummy("#exclaims", -0.5)],
    ):
        data = proposed_rubric(features, KINDS, "en")
        chosen, rejected = scores(table, np.arange(len(rows)), features)
        expected = [[graded(data, row.chosen)[1], graded(data, row.rejected)[1]] for row in rows]
        assert np.column_stack([chosen, rejected]).tolist() == expected


def test_ids() -> None:
    names = ["i'm sorry", "im sorry", "#asks", "été", "да", "нет"]
    assert proposition_ids(names) == [
        *("says_im_sorry", "says_im_sorry_2", "asks", "says_t", "says_words", "says_words_2")
    ]


TEXT = st.text(max_size=60) | st.text(
    alphabet="ab I'm.\n#:-\"&*!%@`{}[]|>é\u3000\x85ẞİ", max_size=60
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_text_gives_a_rubric_that_check_accepts(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]], draw: random.Random
) -> None:
    """The YAML parses and is a partition, and each pattern finds what was counted."""
    doubled = [pair(*replies, f"{i} {side}") for i, replies in enumerate(texts) for side in "ab"]
    table = pair_table(doubled, "en")
    names = draw.sample(table.names, min(4, len(table.names))) or ["#asks"]
    features = [dummy(name, draw.choice([-1.5, 0.25])) for name in names]
    data = proposed_rubric(features, KINDS, "en")
    text = proposed_yaml("proposed", "en", data, features, ["a: summary\n- of: [numbers"])
    file: Path = tmp_path_factory.mktemp("proposed") / "proposed.yaml"
    file.write_text(text, encoding="utf-8")
    rubric = load_constitution(file).rubric
    assert rubric is not None
    assert check_rubric(rubric) == []
    compiled = compile_rubric(rubric)
    ids = proposition_ids(names)
    for row, texts_of_row in enumerate(doubled):
        result = grade(compiled, prompt="q", response=texts_of_row.chosen, kind="benign")
        for id, name in zip(ids, names, strict=True):
            if name in table.names and name != "#echoes_prompt":
                counted = table.chosen_NF[row, table.names.index(name)]
                assert result.propositions[id] == counted, (name, texts_of_row.chosen)


def test_patterns_are_escaped() -> None:
    assert ngram_pattern("i'm sorry") == r"(?<![\w'])i'm,? sorry(?![\w'])"
    assert ngram_pattern("a.b") == r"(?<![\w'])a\.b(?![\w'])"
