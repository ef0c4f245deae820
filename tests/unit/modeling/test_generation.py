"""Batched decoding and option scoring against one plain row at a time."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_decoding import END, greedy, load_plain, next_logp, option_logprob, random_rows

from cai.errors import UsageError
from cai.modeling import decoding
from cai.modeling.attention import Prefix
from cai.modeling.batching import chunk_by_tokens, common_prefix_length, left_pad
from cai.modeling.decoding import DecodingBatch, prefill_prefix
from cai.modeling.generation import generate, option_logprobs
from cai.modeling.loading import fingerprint, load_model
from cai.modeling.precision import matmul_dtype
from cai.modeling.sampling import Generation, Responses, draw


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_model(str(tiny_model))


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    return load_plain(tiny_model)


def next_token_logp(model: Any, rows: list[list[int]], prefix: Prefix | None) -> torch.Tensor:
    return DecodingBatch(model, rows, prefix, END).logits().log_softmax(-1)


def generate_all(model: Any, rows: list[list[int]], **changes: Any) -> list[Generation]:
    settings: dict[str, Any] = {
        "max_tokens": [12] * len(rows),
        "temperatures": [0.0] * len(rows),
        "seeds": list(range(len(rows))),
        "stop_ids": frozenset({END}),
        "pad": END,
    }
    return generate(model, rows, **settings | changes)


def test_generate_is_the_plain_loop(model: Any, plain: Any) -> None:
    """Rows of 2 to 45 tokens, left-padded together, against each row alone."""
    rows = random_rows(2, 45, 9, 30, 9)
    assert [draw.ids for draw in generate_all(model, rows)] == [
        greedy(plain, row, 12) for row in rows
    ]


def test_generate_ends_each_row_on_its_own(model: Any, plain: Any) -> None:
    """Row 0 ends after 2 tokens, row 1 at a stop token, row 2 by `stop_when` after 5 tokens."""
    rows = random_rows(7, 20, 33, 12, seed=3)
    free = [greedy(plain, row, 12, stop=-1) for row in rows]
    stop = free[1][3]
    counts = [2, 12, 12, 12]
    want = [greedy(plain, row, count, stop=stop) for row, count in zip(rows, counts, strict=True)]
    assert len(want[1]) == free[1].index(stop) + 1 <= 4
    want[2] = want[2][:5]

    def stop_when(row: int, ids: list[int]) -> bool:
        return row == 2 and len(ids) == 5

    draws = generate_all(
        model, rows, max_tokens=counts, stop_ids=frozenset({stop}), stop_when=stop_when
    )
    assert [draw.ids for draw in draws] == want
    assert [draw.finished for draw in draws] == [
        ids[-1] == stop or i == 2 for i, ids in enumerate(want)
    ]
    assert not draws[0].finished or want[0][-1] == stop
    assert draws[1].finished
    assert draws[2].finished


def test_shared_prefix_changes_nothing(model: Any, plain: Any) -> None:
    """40 shared tokens run once: logits within 1e-5 of those without a prefix and of the plain
    model, and the same texts.
    """
    rows = random_rows(1, 25, 8, seed=1, head=random_rows(40, seed=2)[0])
    assert common_prefix_length(rows) == 40
    prefix = prefill_prefix(model, rows[0][:40])
    without = next_token_logp(model, rows, None)
    with_prefix = next_token_logp(model, rows, prefix)
    plain_logp = torch.stack([next_logp(plain, row) for row in rows])
    torch.testing.assert_close(with_prefix, without, atol=1e-5, rtol=0)
    torch.testing.assert_close(with_prefix, plain_logp, atol=1e-5, rtol=0)
    assert generate_all(model, rows, prefix=prefix) == generate_all(model, rows)
    warm = [1.0] * 3
    with_prefix_texts = generate_all(model, rows, prefix=prefix, temperatures=warm)
    assert with_prefix_texts == generate_all(model, rows, temperatures=warm)
    assert [draw.ids for draw in generate_all(model, rows, prefix=prefix)] == [
        greedy(plain, row, 12) for row in rows
    ]


def test_prompts_read_in_parts_are_the_same_prompts(
    model: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five rows of 3 to 30 tokens in one pass, in chunks of at most 40 tokens, and row by row: the
    same texts, and the same log-probabilities of options within 1e-5.
    """
    rows = random_rows(3, 30, 12, 9, 10, head=random_rows(20, seed=2)[0])
    prefix = prefill_prefix(model, rows[0][:20])
    options = [[[5], [9, 4]]] * 5
    want_texts = generate_all(model, rows)
    want_logps = option_logprobs(model, rows, options, pad=END)
    assert [draw.ids for draw in want_texts] == [greedy(plain, row, 12) for row in rows]
    suffixes = [row[20:] for row in rows]
    single_rows = [(i, i + 1) for i in range(5)]
    for tokens, chunks in ((40, [(0, 1), (1, 2), (2, 5)]), (1, single_rows)):
        assert [(c.start, c.stop) for c in chunk_by_tokens(suffixes, tokens)] == chunks
        monkeypatch.setattr(decoding, "PREFILL_TOKENS", tokens)
        for with_prefix in (None, prefix):
            assert generate_all(model, rows, prefix=with_prefix) == want_texts
            got = option_logprobs(model, rows, options, pad=END, prefix=with_prefix)
            torch.testing.assert_close(
                torch.tensor(got), torch.tensor(want_logps), atol=1e-5, rtol=0
            )


def test_an_end_token_inside_a_row_is_a_token(model: Any, plain: Any) -> None:
    """Padding and end token are equal here. Rows begin with it, hold it and end in it: logits are
    those of the unpadded row.
    """
    rows = [[END, 5, 6], [7, END, END, 8, 9, 10, 11, 12], [END], [3, 4, END]]
    ids, mask = left_pad(rows, END, torch.device("cpu"))
    assert ids.shape == (4, 8)
    assert mask.sum(1).tolist() == [3, 8, 1, 3]
    got = next_token_logp(model, rows, None)
    want = torch.stack([next_logp(plain, row) for row in rows])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def sample_tokens(
    logits_BV: torch.Tensor, temperatures: list[float], streams: list[Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row with its log-probability, drawn from the given streams."""
    rows = range(len(streams))
    responses = Responses([1] * len(rows), temperatures, [0] * len(rows), frozenset())
    responses.streams = streams
    return draw(logits_BV, responses.draws(rows, 1, logits_BV.device), 0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_choose_follows_the_distribution(temperature: float) -> None:
    """p = 1/2, 1/4, 1/8, 1/8, 0 at T = 1. At T = 2 square roots: 1, 1/sqrt 2, 1/2, 1/2, 0 over
    their sum.

    20,000 seeded draws; chi-square with 3 degrees of freedom stays under 16.27 (one sample in a
    thousand would not).
    """
    p = [0.5, 0.25, 0.125, 0.125]
    powered = [x ** (1 / temperature) for x in p]
    expected = [20_000 * x / sum(powered) for x in powered]
    logits = torch.tensor([[*map(math.log, p), -math.inf]]).repeat(20_000, 1) + 7.0
    token_B, logp_B = sample_tokens(
        logits, [temperature] * 20_000, [random.Random(seed) for seed in range(20_000)]
    )
    counts = token_B.bincount(minlength=5).tolist()
    expected_logp = torch.tensor([*expected, 1.0]).div(20_000).log()
    torch.testing.assert_close(logp_B, expected_logp[token_B])
    assert counts[4] == 0
    assert sum((o - e) ** 2 / e for o, e in zip(counts[:4], expected, strict=True)) < 16.27


def test_choose_at_the_edges() -> None:
    """random() in [0, 1): 0 gives the last token of any probability, just below 1 the first."""

    class Fixed(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]])
    last, first = Fixed(0.0), Fixed(1 - 2**-53)
    assert sample_tokens(logits, [1.0], [last])[0].tolist() == [2]
    assert sample_tokens(logits, [1.0], [first])[0].tolist() == [1]
    mixed, _ = sample_tokens(logits.repeat(2, 1), [0.0, 1.0], [last, first])
    assert mixed.tolist() == [2, 1]


def test_log_probability_of_a_greedy_token_is_at_temperature_1() -> None:
    """p = 1/4, 3/4: the larger is taken, and log 3/4 is its log-probability."""
    logits = torch.tensor([[0.25, 0.75]]).log()
    token_B, logp_B = sample_tokens(logits, [0.0], [random.Random(0)])
    assert token_B.tolist() == [1]
    assert logp_B.tolist() == pytest.approx([math.log(0.75)], abs=1e-6)


def test_a_draw_does_not_depend_on_its_neighbours(model: Any) -> None:
    """Row, temperature and seed determine the text: alone, among rows of other temperatures and
    lengths, and at another index.
    """
    rows, temperatures, seeds = (
        random_rows(11, 3, 28, 17, seed=4),
        [1.0, 0.0, 1.7, 0.5],
        [5, 6, 7, 8],
    )
    together = generate_all(model, rows, temperatures=temperatures, seeds=seeds)
    alone = [
        generate_all(model, [row], temperatures=[temperature], seeds=[seed], max_tokens=[12])[0]
        for row, temperature, seed in zip(rows, temperatures, seeds, strict=True)
    ]
    assert together == alone
    reverse = generate_all(model, rows[::-1], temperatures=temperatures[::-1], seeds=seeds[::-1])
    assert reverse == together[::-1]
    repeated = generate_all(model, [rows[0]] * 4, temperatures=[1.0] * 4, seeds=[5, 5, 6, 7])
    assert repeated[0] == together[0]
    assert len({tuple(draw.ids) for draw in repeated}) == 3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "options",
    [[[33], [34]], [[33], [34, 35], [36, END, 37]], [[40, 41], [42, 43]]],
    ids=["single", "mixed", "double"],
)
def test_option_logprobs(model: Any, plain: Any, shared: bool, options: list[list[int]]) -> None:
    """Each option's tokens one after the other, from the full softmax of an unpadded row."""
    rows = random_rows(1, 19, 6, seed=6, head=random_rows(35, seed=7)[0])
    prefix = prefill_prefix(model, rows[0][:35]) if shared else None
    got = option_logprobs(model, rows, [options] * 3, pad=END, prefix=prefix)
    want = [[option_logprob(plain, row, option) for option in options] for row in rows]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), atol=2e-5, rtol=0)


def test_options_of_the_whole_vocabulary_sum_to_1(model: Any) -> None:
    got = option_logprobs(model, random_rows(9), [[[token] for token in range(258)]], pad=END)
    assert sum(map(math.exp, got[0])) == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_bfloat16_is_close_and_another_model(
    model: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products in bfloat16 (8 bits, 1 in 256) move log-probabilities of some nats by hundredths.

    Weights, the head and the answers stay float32; the fingerprint differs from that of float32.
    """
    rows = random_rows(30, 5, 12, head=random_rows(35, seed=8)[0])
    want = next_token_logp(model, rows, None)
    float32_fingerprint = fingerprint(str(tiny_model))
    monkeypatch.setenv("CAI_PRECISION", "bfloat16")
    matmul_dtype.cache_clear()
    try:
        got = [
            DecodingBatch(model, rows, prefix, END).logits()
            for prefix in (None, prefill_prefix(model, rows[0][:35]))
        ]
        assert fingerprint(str(tiny_model)) != float32_fingerprint
        assert generate_all(model, rows) == generate_all(model, rows)
        monkeypatch.setenv("CAI_PRECISION", "float8")
        matmul_dtype.cache_clear()
        with pytest.raises(
            UsageError, match="CAI_PRECISION=float8: expected one of auto, float32, bfloat16"
        ):
            matmul_dtype()
    finally:
        monkeypatch.undo()
        matmul_dtype.cache_clear()
    for logits in got:
        assert logits.dtype == torch.float32
        assert 1e-4 < (logits.log_softmax(-1) - want).abs().max().item() < 0.3
