"""Languages of many texts are those that the library gives for each alone."""

from __future__ import annotations

import random

import py3langid
import pytest

from cai.data import languages
from cai.data.languages import detect_language, detect_languages

SENTENCES = [
    "Wie backe ich ein einfaches Brot?", "How do I bake bread?", "Où est la gare ?", "HELLO THERE",
    "请问怎样存放清洁用品", "家で洗剤を保管する", "как дела", "\ud800", "", " ", "12 34",
    "😀 👩\u200d👧", "je", "<|im_end|>", "e\u0301te\u0301", "a", "Koliko je sati?",
    "Kolko je hodín?",
]  # fmt: skip


def odd_texts(count: int, seed: int) -> list[str]:
    """Mixed languages, some empty, some cut anywhere, some long."""
    stream = random.Random(seed)
    texts = [" ".join(stream.choices(SENTENCES, k=stream.randrange(6))) for _ in range(count)]
    texts = [text[: stream.randrange(1, 99)] if stream.random() < 0.3 else text for text in texts]
    return [text * 300 if stream.random() < 0.02 else text for text in texts]


def test_many_texts_as_the_library_has_each() -> None:
    texts = odd_texts(900, 1)
    expected = [py3langid.classify(text)[0] for text in texts]
    assert detect_languages(texts) == expected
    assert len(set(expected)) > 10
    assert detect_languages(texts[:3]) == expected[:3]
    assert detect_languages([]) == []


def test_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = odd_texts(300, 2)
    expected = detect_languages(texts)
    monkeypatch.setattr(languages, "BATCH_BYTES", 4000)
    monkeypatch.setattr(languages, "FEW", 5)
    assert detect_languages(texts) == expected


@pytest.mark.parametrize(("rounding", "share"), [(languages.ROUNDING, 0.0), (1e9, 1.0)])
def test_the_library_decides_where_rounding_could(
    monkeypatch: pytest.MonkeyPatch, rounding: float, share: float
) -> None:
    texts = [text for text in odd_texts(900, 3) if 30 < len(text) < 400]
    seen: list[str] = []

    def detect(text: str) -> str:
        seen.append(text)
        return detect_language(text)

    monkeypatch.setattr(languages, "detect_language", detect)
    monkeypatch.setattr(languages, "ROUNDING", rounding)
    assert detect_languages(texts) == list(map(detect_language, texts))
    assert len(texts) > languages.FEW
    assert len(seen) == pytest.approx(share * len(texts), abs=3)
