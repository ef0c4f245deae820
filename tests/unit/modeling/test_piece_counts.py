"""Limits of tokens, decided by pieces of texts: as if every text were encoded."""

from __future__ import annotations

import random
from operator import le
from typing import Any
from unicodedata import is_normalized

import pytest
from metaspace_toys import metaspace_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cai.modeling import piece_counts
from cai.modeling.piece_counts import PATTERNS, UNCERTAIN, PieceCounts, counts_in_pieces
from cai.modeling.token_counts import TokenCounter
from cai.modeling.tokenization import Renderer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = [
    "the old house", "don't I'LL we're", "12345 6", " ", "  ", "\n", " \n", "\r\n\r\n", "\t",
    "?!..", "请问怎样", "café", "cafe\u0301", "😀", "👩\u200d👧", "\u00a0", "\u3000", "\u2028",
    "x" * 40, "½ ²", "\u0958", "<|im_end|>", "two words", "<think>", "/", "\x1c", "\x00",
    "\u200b", "a", "(the", "_",
]  # fmt: skip
"""`two words` is a token of its own; so are `<think>` and the ends of turns."""


def byte_level(pattern: str | None, **settings: Any) -> Tokenizer:
    """A tokenizer of few merges that cuts words as GPT-2, or by a pattern."""
    steps: list[Any] = []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    level = {"add_prefix_space": False, "use_regex": pattern is None} | settings
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(**level)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["the old house, don't; \n\n 12 12", " ".join(PARTS)], trainer)
    return backend


def finished(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.add_tokens(["two words", AddedToken("<think>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def with_nfc(backend: Tokenizer) -> Tokenizer:
    backend.normalizer = normalizers.NFC()
    return backend


def with_digits(backend: Tokenizer) -> Tokenizer:
    steps = [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return backend


FITTING = {
    "gpt-2": lambda: byte_level(None),
    "digits": lambda: with_digits(byte_level(None)),
    **{f"pattern {i}": lambda p=p: with_nfc(byte_level(p)) for i, p in enumerate(PATTERNS)},
}
OTHERS = {
    "another pattern": lambda: byte_level(r"\p{L}+ \p{L}+|\s+|."),
    "one long word": lambda: byte_level(None, use_regex=False),
    "a space before": lambda: byte_level(None, add_prefix_space=True),
}


def random_texts(count: int, seed: int) -> list[str]:
    stream = random.Random(seed)
    joints = ["", " ", " ", " "]
    return [
        "".join(stream.choice(PARTS) + stream.choice(joints) for _ in range(stream.randrange(9)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", FITTING)
def test_bounds_hold_and_sides_are_exact(name: str) -> None:
    renderer = Renderer(finished(FITTING[name]()))
    assert counts_in_pieces(renderer.tokenizer)
    texts = random_texts(300, len(name))
    exact = [len(renderer.text_ids(text)) for text in texts]
    for least, most in [(None, 20), (8, None), (8, 20), (30, 31), (None, None)]:
        counter = TokenCounter(renderer)
        for _ in range(2):  # the second time, pieces are known
            numbers = counter.each(texts, least, most)
            for limit in (least, None if most is None else most + 1):
                if limit is not None:
                    assert [n < limit for n in numbers] == [n < limit for n in exact]
    pieces = PieceCounts(renderer.tokenizer)
    for _ in range(3):
        bounds = pieces.bounds(texts, 15, 15)
        assert all(low <= n <= high for (low, high), n in zip(bounds, exact, strict=True))
    assert sum(low == high for low, high in bounds) > 10
    assert all(pair == (0, UNCERTAIN) for t, pair in zip(texts, bounds, strict=True) if "<th" in t)


@pytest.mark.parametrize("name", FITTING)
def test_a_text_has_the_tokens_of_its_pieces(name: str) -> None:
    """Texts in NFC, without tokens that were added: others are not taken apart."""
    tokenizer = finished(FITTING[name]())
    count = cut = 0
    for text in random_texts(500, 40):
        if any(token in text for token in ("<", "two words")) or not is_normalized("NFC", text):
            continue
        pieces = piece_counts._pieces(text)
        lengths = [len(tokenizer.encode(piece, add_special_tokens=False)) for piece in pieces]
        assert "".join(pieces) == text
        assert sum(lengths) == len(tokenizer.encode(text, add_special_tokens=False))
        assert all(map(le, lengths, map(piece_counts._bytes, pieces)))
        count += 1
        cut += len(pieces) > 1
    assert count > 150
    assert cut > 100


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_encode_every_text(name: str) -> None:
    tokenizer = finished(OTHERS[name]())
    assert not counts_in_pieces(tokenizer)
    renderer = Renderer(tokenizer)
    texts = random_texts(40, 9)
    assert TokenCounter(renderer).each(texts, 3, 9) == [len(renderer.text_ids(t)) for t in texts]


def test_models_that_need_not_merge_bytes() -> None:
    assert not counts_in_pieces(metaspace_tokenizer("first", TEMPLATE))
    for setting in ({"dropout": 0.5}, {"byte_fallback": True}, {"end_of_word_suffix": "</w>"}):
        backend = byte_level(None)
        for key, value in setting.items():
            setattr(backend.model, key, value)
        assert not counts_in_pieces(finished(backend))
    backend = byte_level(None)
    backend.normalizer = normalizers.Lowercase()
    assert not counts_in_pieces(finished(backend))


def test_texts_far_from_a_limit_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(finished(byte_level(None)))
    counter = TokenCounter(renderer)
    texts = [f"the old house of the old names {i}" for i in range(30)]
    encoded: list[str] = []

    def lengths(self: Renderer, chosen: list[str]) -> list[int]:
        encoded.extend(chosen)
        return [99] * len(chosen)

    monkeypatch.setattr(Renderer, "text_lengths", lengths)
    assert max(counter.each(texts, None, 30)) <= 30  # once the words are known
    assert encoded == []
    assert counter.each(["q" * 31], None, 30) == [99]  # which has more bytes, and was not seen
    assert encoded == ["q" * 31]
    monkeypatch.setattr(piece_counts, "LEARNT_TEXTS", 30)
    assert counter.each(["new words new words new words"], None, 20) == [99]
