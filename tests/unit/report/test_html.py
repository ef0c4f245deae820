"""The report page, from toy run folders: escaping, sections, missing files, errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_toys import STEPS, reply, score, vote

from cai import store
from cai.errors import StoreError
from cai.evals.headline_changes import comparisons
from cai.evals.refusal import refusal_scores
from cai.records import Kind, Preference, Prompt, Revision, Round, Row, chat_of
from cai.report.html import render, write_report
from cai.report.page import MAX_CHARS, SHOWN_CHARS, clean, script_hash

EVIL = (
    "<script>alert(1)</script></pre></div>{{ 7*7 }}{% raw %}"
    "<img src=http://evil.example/x onerror=go()>\x00&amp;"
)
EVIL_SHOWN = (
    "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;&lt;/div&gt;{{ 7*7 }}{% raw %}"
    "&lt;img src=http://evil.example/x onerror=go()&gt;\ufffd&amp;amp;"
)


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder in which every text that a user or model could write tries to break out."""
    folder = tmp_path / "toy"
    prompt = Prompt(chat=chat_of(("user", EVIL)), kind="disallowed", category=EVIL)
    rounds = (
        Round(principle="no-harm", critique="Critique: " + EVIL, revision="Revision: " + EVIL),
    )
    write(folder / "00-prompts.jsonl", [prompt])
    passed = Revision(
        source=prompt.id,
        chat=prompt.chat,
        initial="Initial: " + EVIL,
        rounds=rounds,
        final=EVIL,
        chosen_round=0,
    )
    dropped = Revision(
        source=prompt.id, chat=prompt.chat, initial="x", final=None, dropped="near copy " + EVIL
    )
    write(folder / "10-revisions.jsonl", [passed, dropped])
    label = Preference(source="a", p_first=0.8, votes=(vote((0.0, -1.0), (-2.0, 0.0), 0.8),))
    write(
        folder / "40-preferences.jsonl",
        [label, Preference(source="b", p_first=None, unscored="no answer " + EVIL)],
    )
    for name in ("50-reward", "60-policy"):
        (folder / name).mkdir()
    (folder / "50-reward" / "metrics.json").write_text(
        json.dumps({"ece": 0.06, "by": {EVIL: 0.5}, "note": EVIL})
    )
    steps = [{**step, "reward.$x^{2$" + EVIL: 0.3} for step in STEPS]
    (folder / "60-policy" / "metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in steps)
    )
    replies = [
        reply(source, subject, response=EVIL)
        for source in ("p1", "p2")
        for subject in ("base", "sft", "policy")
    ]
    write(
        folder / "70-replies.jsonl", [row.model_copy(update={"category": EVIL}) for row in replies]
    )
    strange = score("strange." + EVIL, 0.5, subject=EVIL)
    write(folder / "70-scores.jsonl", [*refusal_scores(replies), *comparisons(replies), strange])
    store.begin_artifact(
        folder / "10-revisions.jsonl",
        "revise",
        {"constitution": "harmless 1.0.0", "model": EVIL, "seed": "7"},
    )
    store.finish_artifact(folder / "10-revisions.jsonl", rows=2)
    return folder


class Page(HTMLParser):
    """Tags and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_nothing_that_was_written_by_others_becomes_markup(run: Path) -> None:
    page = render(run)
    assert not {"img", "pre", "iframe", "link", "object"} & set(Page(page).tags)
    assert Page(page).tags.count("script") == 2, "the browser's data, and the browser"
    assert not [name for name, _ in Page(page).attributes if name.startswith("on")]
    assert page.count("<script") == 2
    without = r"<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>|<code>.*?</code>|'sha256.*?'"
    assert "49" not in re.sub(without, "", page, flags=re.DOTALL), "{{ 7*7 }} is text"
    assert "\x00" not in page
    for start in ("", "Critique: ", "Revision: ", "Initial: "):
        assert f'<div class="text" dir="auto">{start}{EVIL_SHOWN}</div>' in page
    assert f"near copy {EVIL_SHOWN}" in page
    assert f"no answer {EVIL_SHOWN}" in page
    assert page.count("<article") == page.count("</article>") == 4


def test_the_page_loads_nothing(run: Path) -> None:
    page = render(run)
    for name, value in Page(page).attributes:
        if name.split(":")[-1] in {"src", "href", "srcset", "action", "data", "poster"}:
            assert value.startswith("#"), (name, value)
        elif not name.startswith("xmlns"):
            assert not re.search(r"url\(\s*['\"]?(?!#)", value), (name, value)
    for style in re.findall(r"<style.*?</style>", page, flags=re.DOTALL):
        assert "url(" not in style
        assert "@import" not in style
    assert "default-src 'none'" in page


def test_every_section_is_there(run: Path) -> None:
    page = render(run)
    assert len(set(re.findall(r'<section id="(\w+)"', page))) == 11
    assert set(re.findall(r'<a href="#(\w+)"', page)) == set(
        re.findall(r'<section id="(\w+)"', page)
    )
    assert "is not there yet" not in page
    assert page.count("<svg") == 2
    assert "harmless 1.0.0" in page
    assert "The filters kept 1 of 2 revisions" in page
    assert "may be harmful or offensive" in page
    assert "none is hand-picked" in page


def test_null_rows_are_listed_by_stage_and_reason(tmp_path: Path) -> None:
    """The most frequent reason first; a reason that passes by itself is asked again."""
    passing = "no answer for now: http://h/v1: status 503"
    labels = [Preference(source=str(i), p_first=None, unscored=passing) for i in range(3)]
    labels += [Preference(source=f"x{i}", p_first=None, unscored=f"reason {i}") for i in range(12)]
    write(tmp_path / "40-preferences.jsonl", [*labels, Preference(source="y", p_first=0.5)])
    write(tmp_path / "70-replies.jsonl", [reply("a"), reply("b", unscored="no kind")])
    rows = re.findall(r'<section id="nulls">.*?</section>', render(tmp_path), flags=re.DOTALL)
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rows[0])[5:]
    table = [tuple(cells[i : i + 5]) for i in range(0, len(cells), 5)]
    assert table[0] == ("label", passing, "3", "16", "yes")
    assert table[1] == ("label", "reason 0", "1", "16", "no")
    assert table[-2:] == [
        ("label", "other reasons", "3", "16", "no"),
        ("eval", "no kind", "1", "2", "no"),
    ]
    assert "No row of a finished file is null" in render_empty(tmp_path / "empty")


def render_empty(folder: Path) -> str:
    folder.mkdir()
    return render(folder)


def test_the_page_is_a_function_of_the_files(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == render(run) == render(run)
    assert {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "report.html"
    } == before


def test_missing_files_are_named_with_what_writes_them(tmp_path: Path) -> None:
    page = render(tmp_path)
    for name, stage in [
        ("10-revisions.jsonl", "revise"),
        ("40-preferences.jsonl", "label"),
        ("50-reward/metrics.json", "reward"),
        ("60-policy/metrics.jsonl", "ppo"),
        ("70-scores.jsonl", "eval"),
        ("70-replies.jsonl", "eval"),
    ]:
        assert f"{name} is not there yet: `cai {stage}` writes it." in page
    assert "No manifest" in page


def test_empty_files_are_no_error(tmp_path: Path) -> None:
    for name in (
        "10-revisions.jsonl",
        "40-preferences.jsonl",
        "60-policy/metrics.jsonl",
        "70-scores.jsonl",
        "70-replies.jsonl",
    ):
        write(tmp_path / name, [])
    page = render(tmp_path)
    assert "40-preferences.jsonl is empty" in page
    assert "No update of PPO is finished yet" in page
    assert "<svg" not in page


def test_errors_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        render(tmp_path / "nowhere")
    (tmp_path / "60-policy").mkdir()
    (tmp_path / "60-policy" / "metrics.jsonl").write_text('{"update": 0}\n{"reward": 1}\n')
    with pytest.raises(StoreError, match=r"metrics.jsonl:2: step"):
        render(tmp_path)
    (tmp_path / "60-policy" / "metrics.jsonl").unlink()
    (tmp_path / "70-scores.jsonl").write_text('{"metric": "m"}\n')
    with pytest.raises(StoreError, match=r"70-scores.jsonl:1: "):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_long_texts_are_cut_and_kept_in_full(tmp_path: Path) -> None:
    """One character too long: cut to `SHOWN_CHARS` and an ellipsis, in full in <details>."""
    long = "a" * SHOWN_CHARS + "b"
    write(
        tmp_path / "70-replies.jsonl",
        [reply("p", "base", response=long), reply("p", "sft", response="c" * SHOWN_CHARS)],
    )
    page = render(tmp_path)
    assert f'<div class="text" dir="auto">{"a" * SHOWN_CHARS}…</div>' in page
    assert (
        f"<summary>all {SHOWN_CHARS + 1} characters</summary>"
        f'<div class="text" dir="auto">{long}</div></details>' in page
    )
    assert f'<div class="text" dir="auto">{"c" * SHOWN_CHARS}</div>' in page
    assert f"all {SHOWN_CHARS} characters" not in page


def test_a_text_beyond_the_bound_is_not_in_the_page(tmp_path: Path) -> None:
    write(tmp_path / "70-replies.jsonl", [reply("p", "base", response="d" * (MAX_CHARS + 1))])
    page = render(tmp_path)
    assert f"<summary>the first {MAX_CHARS} of {MAX_CHARS + 1} characters</summary>" in page
    assert "d" * MAX_CHARS in page
    assert "d" * (MAX_CHARS + 1) not in page


def test_only_the_pages_script_may_run(run: Path) -> None:
    """The policy names the digest of the script that the page ends with, and nothing else."""
    page = render(run)
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0]
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert f"script-src '{script_hash(script)}';" in policy
    for source in ("unsafe-eval", "http:", "https:", "data:", "script-src 'unsafe"):
        assert source not in policy
    for call in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "eval(",
        "Function(",
        "document.write",
    ):
        assert call not in script
    assert script.isascii()
    assert script.count("\n") < 200


def test_what_is_not_benign_is_folded(tmp_path: Path) -> None:
    """Prompt and replies are inside a closed <details>, with and without script."""
    kinds: tuple[Kind | None, ...] = ("disallowed", "sensitive", None, "benign")
    rows = [reply(f"ask {kind}", "base", kind, response=f"reply to {kind}") for kind in kinds]
    write(tmp_path / "70-replies.jsonl", rows)
    page = render(tmp_path)
    folded = "".join(re.findall(r'<details class="fold">(.*?)</details>', page, flags=re.DOTALL))
    for kind in kinds:
        assert (f"reply to {kind}</div>" in folded) == (kind != "benign")
        assert (f"ask {kind}</div>" in folded) == (kind != "benign")


def test_the_chain_is_in_the_page(tmp_path: Path) -> None:
    """A stage's inputs with their digests, and the digest of the scores at the table."""
    for name, stage, inputs in (
        ("70-replies.jsonl", "x", {}),
        ("70-scores.jsonl", "eval", {"input 70-replies.jsonl": "abc", "constitution": "toy 1"}),
    ):
        rows = [score("refusal.refusal_rate.benign", 0.5)] if stage == "eval" else [reply("p")]
        write(tmp_path / name, rows)
        store.begin_artifact(tmp_path / name, stage, inputs)
        store.finish_artifact(tmp_path / name)
    page = render(tmp_path)
    digest = store.content_digest(tmp_path / "70-scores.jsonl")
    assert "Constitution <b>toy 1</b>" in page
    assert "reads 70-replies.jsonl <code>abc</code>" in page
    assert "made again since" in page
    assert page.count(f"<code>{digest}</code>") >= 3


def test_revisions_are_compared_by_word(run: Path) -> None:
    page = render(run)
    assert "<del>Initial</del><ins>Revision</ins>: &lt;script&gt;" in page
    assert "1 removed, 1 added" in page


def test_control_characters_are_shown_as_such() -> None:
    """Line feeds and tabs stay, CRLF is one line feed; a lone CR, NUL, C1, surrogates go."""
    assert clean("a\r\nb\tc\rd\x00e\x85f\ud800g") == "a\nb\tc\ufffdd\ufffde\ufffdf\ufffdg"
