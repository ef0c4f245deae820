"""What is let through and why not: every filter on its own, the two passes together, every kind of file."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.cli import main
from cai.data.dedupe import clean, kept
from cai.data.filters import HygieneConfig, Rules, detect_language, told
from cai.data.pii import find_personal_data, mask
from cai.data.readers import prompt_rows
from cai.data.split import clean_training
from cai.data.writers import write_prompts
from cai.errors import StoreError
from cai.records import Chat, Prompt, chat_of


def prompt(text: str, **more: Any) -> Prompt:
    return Prompt(chat=chat_of(("user", text)), **more)


def outcome(prompts: Sequence[Prompt], evaluation: Sequence[str] = (), **settings: Any) -> list[str]:
    """The reason for each prompt, "kept" where there is none."""
    config = HygieneConfig(**settings)
    found = clean(lambda: iter(prompts), config, Rules(config, lambda text: len(text.split()), evaluation))
    return [found.reasons[code] or "kept" for code in found.codes]


# ---- filters ----


def test_exact_repetitions_go_and_the_first_stays() -> None:
    assert outcome([prompt("a"), prompt("b"), prompt("a"), prompt("a", kind="benign")]) == [
        "kept",
        "kept",
        "repeated",
        "repeated",
    ]


def test_length() -> None:
    texts = ["one", "one two", "one two three", "one two three four"]
    assert outcome(list(map(prompt, texts)), min_tokens=2, max_tokens=3) == ["too short", "kept", "kept", "too long"]


def test_beginnings() -> None:
    """Twenty characters in common; a shorter text has no such beginning, and repeats nothing."""
    head = "x" * 20
    assert outcome(list(map(prompt, [head + "a", head + "b", "x" * 19, "x" * 18])), prefix=20) == [
        "kept", "same beginning", "kept", "kept",
    ]  # fmt: skip


def test_a_user_has_no_more_than_their_share() -> None:
    users = ["ann", "ann", None, "ann", None, "bob"]
    reasons = outcome([prompt(f"text {i}", user=user) for i, user in enumerate(users)], per_user=2)
    assert reasons == ["kept", "kept", "kept", "too many of a user", "kept", "kept"]


SENTENCE = "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun until the evening comes"


def test_near_repetitions() -> None:
    """One word of 21 changed: 3 of 19 shingles differ on each side, J = 16/22 = 0.73. Another text shares none."""
    changed = SENTENCE.replace("warm", "cold")
    other = "a completely different question about how bread is baked in old stone ovens by careful people who love it"
    assert outcome(list(map(prompt, [SENTENCE, other, changed])), near=0.6) == ["kept", "kept", "nearly repeated"]
    assert outcome(list(map(prompt, [SENTENCE, other, changed])), near=0.95) == ["kept"] * 3


def test_the_likeness_is_the_jaccard_likeness() -> None:
    """Pairs that share a known part of their shingles: MinHash of 64 estimates within three standard errors, 0.19."""
    from cai.data.dedupe import signature
    from cai.data.filters import shingles

    stream = random.Random(3)
    for _ in range(20):
        words = [f"w{stream.randrange(10**6)}" for _ in range(60)]
        swapped = [w if stream.random() > 0.05 else f"v{i}" for i, w in enumerate(words)]
        a, b = set(shingles(" ".join(words))), set(shingles(" ".join(swapped)))
        estimate = float((signature(" ".join(words)) == signature(" ".join(swapped))).mean())
        assert estimate == pytest.approx(len(a & b) / len(a | b), abs=0.19)


def test_evaluation_texts_stay_out() -> None:
    """Eight words in a row in common, whatever the case and the marks between them; seven are chance."""
    evaluation = [SENTENCE]
    inside = "Please say: The QUICK, brown fox jumps over the lazy..."
    seven = "the quick brown fox jumps over the cat"
    assert outcome([prompt(inside), prompt(seven)], evaluation, ngram=8) == ["in an evaluation", "kept"]
    assert outcome([prompt("Short text.")], ["short, TEXT"]) == ["in an evaluation"]


def test_languages() -> None:
    german, english = "Wie backe ich ein einfaches Brot mit Sauerteig?", "How do I bake a simple loaf of sourdough bread?"
    assert (detect_language(german), detect_language(english)) == ("de", "en")
    assert outcome([prompt(german), prompt(english)], languages=("en",)) == ["language de", "kept"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to ann.lee+x@example.org, please", [("ann.lee+x@example.org", "email")]),
        ("not an address: a@b, @home, x@y@z", []),
        ("my card is 4539 5787 6362 1486.", [("4539 5787 6362 1486", "card")]),
        ("my card is 4539 5787 6362 1487.", []),  # the last digit is the checksum
        ("SSN 536-90-4399", [("536-90-4399", "national_id")]),
        ("SSN 000-12-3456", []),  # no such area
        ("send it to GB82 WEST 1234 5698 7654 32 today", [("GB82 WEST 1234 5698 7654 32", "account")]),
        ("call +44 20 7946 0958 or (650) 253-0000", [("+44 20 7946 0958", "phone"), ("(650) 253-0000", "phone")]),
        ("host 192.168.0.1 and 2001:db8::8a2e:370:7334", [("192.168.0.1", "ip"), ("2001:db8::8a2e:370:7334", "ip")]),
        ("version 1.2.3.4.5, 300.1.1.1, at 12:30:45", []),
        ("in 1984, 100000 people", []),
    ],
)
def test_personal_data(text: str, found: list[tuple[str, str]]) -> None:
    assert [(text[s.start : s.end], s.category) for s in find_personal_data(text)] == found


@settings(deadline=None)
@given(st.text(max_size=80))
def test_masking_leaves_the_rest_alone(text: str) -> None:
    spans = find_personal_data(text)
    masked = mask(text, spans)
    rest = "".join(text[a.end : b.start] for a, b in zip([None, *spans], [*spans, None], strict=True) if a and b)  # type: ignore[union-attr]
    assert all(piece in masked for piece in rest.split())
    assert spans or masked == text


def test_masked_or_dropped() -> None:
    chat = chat_of(("user", "I am ann@example.org"), ("assistant", "Hello."), ("user", "Call 650-253-0000"))
    prompts = [Prompt(chat=chat), prompt("nothing personal")]
    assert outcome(prompts, pii="drop") == ["personal data (email)", "kept"]
    config = HygieneConfig(pii="mask")
    rules = Rules(config, len)
    found = clean(lambda: iter(prompts), config, rules)
    masked = list(kept(lambda: iter(prompts), rules, found))
    assert [m.content for m in masked[0].chat] == ["I am [EMAIL]", "Hello.", "Call [PHONE]"]
    assert masked[1] == prompts[1]


def test_what_goes_for_itself_takes_no_other_with_it() -> None:
    """The first of two near twins is too long: the second stays."""
    config: dict[str, Any] = {"near": 0.6, "max_tokens": 22}
    assert outcome([prompt(SENTENCE + " at last"), prompt(SENTENCE)], **config) == ["too long", "kept"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, "ann", "bob"])), max_size=30))
def test_as_a_plain_loop_would(rows: list[tuple[int, str | None]]) -> None:
    """Exact repetitions and users, against the obvious one-pass program."""
    prompts = [prompt(f"text {number}", user=user) for number, user in rows]
    seen: set[str] = set()
    want = []
    for one in prompts:
        want.append("repeated" if told(one) in seen else "kept")
        seen.add(told(one))
    users: dict[str, int] = {}
    for i, one in enumerate(prompts):
        if want[i] == "kept" and one.user:
            users[one.user] = users.get(one.user, 0) + 1
            if users[one.user] > 2:
                want[i] = "too many of a user"
    assert outcome(prompts, per_user=2) == want


def exchange(asked: str, said: str) -> Chat:
    return chat_of(("user", asked), ("assistant", said))


def test_training_rows_are_cleaned_once_more() -> None:
    """What a model said may be personal, repeated, or out of an evaluation; a prompt's own limits don't apply to it."""
    rows = [exchange("a b c", "Write to ann@example.org"), exchange("a b c", "Fine."), exchange("a b c", "Fine.")]
    config = HygieneConfig(pii="mask", max_tokens=2, min_tokens=1, prefix=20, per_user=1)
    kept_rows, counts = clean_training(rows, config)
    assert kept_rows == [exchange("a b c", "Write to [EMAIL]"), exchange("a b c", "Fine.")]
    assert counts == {"kept": 2, "repeated": 1}


def test_a_reply_that_repeats_an_evaluation_goes(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": SENTENCE}) + "\n")
    rows = [exchange("Say it.", f"As they say: {SENTENCE}"), exchange("Say it.", "No.")]
    found, counts = clean_training(rows, HygieneConfig(against=("eval.jsonl",)), [tmp_path / "eval.jsonl"])
    assert found == rows[1:]
    assert counts == {"kept": 1, "in an evaluation": 1}


def test_nothing_comes_out_of_nothing() -> None:
    assert outcome([], near=0.8, prefix=20, per_user=1) == []


# ---- files ----

ROWS = [
    {"prompt": "How are you?", "kind": "benign", "category": "talk"},
    {"prompt": "Say \"x\",\nplease", "kind": "benign", "user": "ann"},
]  # fmt: skip


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, ["prompt", "kind", "category", "user", "note"])
        out.writeheader()
        out.writerows(ROWS)


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def as_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(("category", "user", "note")), **row} for row in ROWS]), path)


def as_folder(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{**dict.fromkeys(("category", "user")), **row} for row in ROWS]).save_to_disk(str(path))


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", as_jsonl), ("a.csv", as_csv), ("a.parquet", as_parquet), ("a", as_folder)]
)
def test_every_kind_of_file_holds_the_same_prompts(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    got = list(prompt_rows(tmp_path / name))
    assert got == [
        prompt("How are you?", kind="benign", category="talk"), prompt('Say "x",\nplease', kind="benign", user="ann"),
    ]  # fmt: skip


def test_data_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loader of `datasets`, on a folder in the place of a hub id; no network, so an unknown id is one clear line."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    as_parquet(tmp_path / "set" / "train.parquet")
    as_parquet(tmp_path / "a.parquet")
    assert list(prompt_rows(Path(f"hub:{tmp_path}/set#train"))) == list(prompt_rows(tmp_path / "a.parquet"))
    with pytest.raises(StoreError, match=r"hub:.*/set#test: ValueError: Unknown split"):
        list(prompt_rows(Path(f"hub:{tmp_path}/set#test")))
    with pytest.raises(StoreError, match="hub:nobody/nothing#train: "):
        list(prompt_rows(Path("hub:nobody/nothing#train")))
    with pytest.raises(StoreError, match="name the data set and its split"):
        list(prompt_rows(Path("hub:nobody/nothing")))


def test_dialogues(tmp_path: Path) -> None:
    """Everything up to the last human turn; what the assistant said to that is left out, and so is the worse dialogue."""
    said = "\n\nHuman: Hi\n\nAssistant: Hello.\nWhat is it?\n\nHuman: Human: is a label\n\nAssistant: Yes."
    (tmp_path / "a.jsonl").write_text(json.dumps({"chosen": said, "rejected": "x"}) + "\n", encoding="utf-8")
    (got,) = prompt_rows(tmp_path / "a.jsonl")
    assert got.chat == chat_of(("user", "Hi"), ("assistant", "Hello.\nWhat is it?"), ("user", "Human: is a label"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"chosen": "Assistant: I begin."}, "a.jsonl:1: `chosen` must be a dialogue that begins with Human:"),
        ({"chosen": 3}, "a.jsonl:1: `chosen` must be text, found int"),
        ({"prompt": "a", "chat": []}, "a.jsonl:1: a row needs either"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "a.jsonl:1: chat.0.role"),
    ],
)
def test_wrong_rows(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(StoreError) as error:
        list(prompt_rows(tmp_path / "a.jsonl"))
    assert why in str(error.value)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.jsonl"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=name):
        list(prompt_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    prompts = [prompt("a", kind="benign"), Prompt(chat=chat_of(("user", "b"), ("assistant", "c"), ("user", "d")), user="u")]
    assert write_prompts(tmp_path / name, iter(prompts)) == 2
    assert list(prompt_rows(tmp_path / name)) == prompts


def test_a_failure_leaves_no_half_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Prompt]:
        yield prompt("a")
        raise RuntimeError("on the way")

    with pytest.raises(StoreError, match="on the way"):
        write_prompts(tmp_path / "out.jsonl", broken())
    assert not (tmp_path / "out.jsonl").exists()


# ---- the command ----


def ended(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return int(stop.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of reasons that add up, a file of what stays, and one prompt explained."""
    prompts = [prompt("a b c"), prompt("a b c", kind="benign"), prompt(SENTENCE), prompt(SENTENCE.replace("warm", "hot"))]
    write_prompts(tmp_path / "in.jsonl", prompts)
    assert ended("clean", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--near", "0.6") == 0
    told = capsys.readouterr().out
    assert all(any(name in line and f" {n} " in line for line in told.splitlines()) for name, n in (("kept", 2), ("repeated", 1)))
    assert list(prompt_rows(tmp_path / "out.jsonl")) == [prompts[0], prompts[2]]
    assert ended("clean", tmp_path / "in.jsonl", "--near", "0.6", "--explain", prompts[3].id) == 0
    assert capsys.readouterr().out == f"{prompts[3].id}: nearly repeated (as {prompts[2].id}, row 3)\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say where what stays goes"),
        (["--output", "o.jsonl", "--near", "0.1"], "--near: Input should be greater than 0.5"),
        (["--output", "o.jsonl", "--pii", "hide"], "--pii: Input should be 'keep', 'mask' or 'drop'"),
        (["--explain", "none"], "--explain none: no prompt has this id"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    write_prompts(tmp_path / "in.jsonl", [prompt("a")])
    assert ended("clean", tmp_path / "in.jsonl", *arguments) == 2
    assert why in capsys.readouterr().err


# ---- in a run ----


def test_a_run_uses_what_hygiene_lets_through(tmp_path: Path) -> None:
    """Ten prompts, one of them an evaluation text and one too long; the manifest has the counts, and a digest of the settings."""
    lines = [{"prompt": f"question number {i}", "kind": "benign"} for i in range(8)]
    lines += [{"prompt": "this one is asked elsewhere", "kind": "benign"}, {"prompt": "w " * 90, "kind": "benign"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "This one is asked ELSEWHERE?"}) + "\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        f"name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\nheld_out: 0.5\nfolder: {tmp_path}/out\n"
        "hygiene: {against: [eval.jsonl], max_tokens: 40}\n",
        encoding="utf-8",
    )
    assert ended("run", tmp_path / "run.yaml", "--until", "prompts") == 0
    train, held = (list(prompt_rows(tmp_path / "out" / name)) for name in ("00-prompts.jsonl", "01-held-out.jsonl"))
    assert (len(train), len(held)) == (4, 4)
    manifest = json.loads((tmp_path / "out" / "00-prompts.manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"] == {"train": 4, "held_out": 4, "in an evaluation": 1, "too long": 1}
    assert ended("run", tmp_path / "run.yaml", "--until", "prompts", "--set", "hygiene.max_tokens=41") == 2


def test_a_missing_evaluation_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    text = "name: x\nconstitution: harmless\nprompts: [p.jsonl]\nhygiene:\n  against: [none.jsonl]\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert ended("run", tmp_path / "run.yaml") == 2
    assert f"run.yaml:5: hygiene.against: no such file: none.jsonl (looked for {tmp_path}/none.jsonl)" in capsys.readouterr().err
