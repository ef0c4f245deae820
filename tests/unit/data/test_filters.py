"""Filters for single prompts and for training chats."""

from __future__ import annotations

import json
import random
from pathlib import Path

from data_toys import SENTENCE, outcome, prompt

from cai.data.filters import HygieneConfig
from cai.data.languages import detect_language
from cai.data.split import clean_training
from cai.records import Chat, chat_of


def test_length() -> None:
    texts = ["one", "one two", "one two three", "one two three four"]
    reasons = outcome(list(map(prompt, texts)), min_tokens=2, max_tokens=3)
    assert reasons == ["too short", "kept", "kept", "too long"]


def test_evaluation_texts_stay_out() -> None:
    """Eight common words in a row, whatever case and punctuation; seven are not enough."""
    evaluation = [SENTENCE]
    inside = "Please say: The QUICK, brown fox jumps over the lazy..."
    seven = "the quick brown fox jumps over the cat"
    reasons = outcome([prompt(inside), prompt(seven)], evaluation, ngram=8)
    assert reasons == ["in an evaluation", "kept"]
    assert outcome([prompt("Short text.")], ["short, TEXT"]) == ["in an evaluation"]


def test_languages() -> None:
    german = "Wie backe ich ein einfaches Brot mit Sauerteig?"
    english = "How do I bake a simple loaf of sourdough bread?"
    assert (detect_language(german), detect_language(english)) == ("de", "en")
    assert outcome([prompt(german), prompt(english)], languages=("en",)) == ["language de", "kept"]


def test_languages_are_those_of_the_library() -> None:
    import py3langid

    stream = random.Random(4)
    sentences = [
        "Wie backe ich ein einfaches Brot?", "How do I bake bread?", "Où est la gare ?",
        "请问怎样存放清洁用品", "家で洗剤を保管する", "как дела", "\ud800", "", "12 34", "HELLO",
    ]  # fmt: skip
    texts = [" ".join(stream.choices(sentences, k=stream.randrange(1, 5))) for _ in range(100)]
    expected = [py3langid.classify(text)[0] for text in texts]
    assert [detect_language(text) for text in texts] == expected


def exchange(request: str, reply: str) -> Chat:
    return chat_of(("user", request), ("assistant", reply))


def test_training_rows_are_cleaned_once_more() -> None:
    """Replies are filtered too; the limits on length, users and beginnings do not apply."""
    rows = [
        exchange("a b c", "Write to ann@example.org"),
        exchange("a b c", "Fine."),
        exchange("a b c", "Fine."),
    ]
    config = HygieneConfig(pii="mask", max_tokens=2, min_tokens=1, prefix=20, per_user=1)
    clean_rows, counts = clean_training(rows, config)
    assert clean_rows == {0: exchange("a b c", "Write to [EMAIL]"), 1: exchange("a b c", "Fine.")}
    assert counts == {"kept": 2, "repeated": 1}


def test_a_reply_that_repeats_an_evaluation_goes(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": SENTENCE}) + "\n")
    rows = [exchange("Say it.", f"As they say: {SENTENCE}"), exchange("Say it.", "No.")]
    config = HygieneConfig(against=("eval.jsonl",))
    clean_rows, counts = clean_training(rows, config, [tmp_path / "eval.jsonl"])
    assert clean_rows == {1: rows[1]}
    assert counts == {"kept": 1, "in an evaluation": 1}
