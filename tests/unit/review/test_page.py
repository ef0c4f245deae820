"""The page in a browser: keys, texts as text, an empty console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Page, chromium
from review_toys import QUESTIONS, TOKEN, pair_items, reply_item, served, session

from cai.records import chat_of
from cai.review.items import Item
from cai.review.session import Questions, Session, latest, read_judgements

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>&lt;\u202e'
TITLE = "document.getElementById('title').textContent"
COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


def test_five_pairs_by_keyboard(page: Page, tmp_path: Path) -> None:
    """A, B, tie, skip, then one that is taken back and answered again."""
    file = tmp_path / "r.jsonl"
    with served(session(file, pair_items(5))) as server:
        page.goto(server.url)
        for number, key in enumerate(("1", "2", "0", "s", "1")):
            page.wait_for(f"{COUNT} === '{number} of 5'")
            page.type(key)
        page.wait_for(f"{TITLE}.startsWith('All 5')")
        assert len(read_judgements(file)) == 5
        assert page.evaluate("location.href").endswith("/")  # without the token
        page.type("u")
        page.wait_for(f"{COUNT} === '4 of 5'")
        page.type("k")
        page.wait_for("document.querySelector('button.chosen')?.textContent.startsWith('skip')")
        page.type("j")
        page.wait_for("!document.querySelector('button.chosen')")
        page.type("2")
        page.wait_for(f"{COUNT} === '5 of 5'")
        page.goto("about:blank")
        page.goto(server.url.partition("#")[0])  # the tab keeps the token
        page.wait_for(f"{TITLE}.startsWith('All 5')")
    rows = [row for row in latest(read_judgements(file)).values() if row.verdict != "skip"]
    shown = {(row.order or ()).index(int(row.verdict == "second")) for row in rows[:2]}
    assert shown == {0, 1}
    assert all(0 <= row.seconds < 60 for row in rows)
    assert page.problems == []


def test_texts_are_text(page: Page, tmp_path: Path) -> None:
    item = Item(task="pair", chat=chat_of(("user", HOSTILE)), replies=(HOSTILE, "b" + HOSTILE))
    with served(session(tmp_path / "r.jsonl", [item])) as server:
        page.goto(server.url)
        page.wait_for("document.querySelectorAll('article').length === 2")
        texts = page.evaluate("[...document.querySelectorAll('.text')].map(p => p.textContent)")
        assert sorted(texts) == sorted([HOSTILE, HOSTILE, "b" + HOSTILE])
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.title") == "cai review"
    assert page.problems == []


def test_ratings_and_propositions_by_keyboard(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    toy = Session([*pair_items(1), reply_item()], file, "ann", Questions(QUESTIONS, True))
    with served(toy) as server:
        page.goto(server.url)
        page.wait_for("document.querySelectorAll('article').length === 2")
        for key in "a5b31":
            page.type(key)
        page.wait_for("document.querySelectorAll('#propositions input').length === 2")
        page.evaluate("document.querySelector('#propositions input').focus()")
        for key in (" ", "a", "7", "Enter"):
            page.type(key)
        page.wait_for(f"{TITLE}.startsWith('All 2')")
    first, second = read_judgements(file)
    assert [first.ratings[index] for index in first.order or ()] == [5, 3]
    assert second.ratings == (7,)
    assert second.propositions == {"declines": True, "supports": False}
    assert page.problems == []


def test_a_server_that_ended_is_one_sentence(page: Page, tmp_path: Path) -> None:
    with served(session(tmp_path / "r.jsonl", pair_items(1))) as server:
        page.goto(server.url)
        page.wait_for("document.querySelectorAll('article').length === 2")
    page.type("1")
    page.wait_for("document.getElementById('message').textContent.includes('still running')")
    page.problems.clear()  # the browser notes the connection that failed


def test_a_new_token_in_the_same_tab(page: Page, tmp_path: Path) -> None:
    """As after a start on the same port: the address differs behind # only."""
    with served(session(tmp_path / "r.jsonl", pair_items(1))) as server:
        page.goto(server.url.replace(TOKEN, "old"))
        page.wait_for("document.getElementById('message').textContent.includes('wrong token')")
        page.problems.clear()  # the browser notes the status 401
        page.goto(server.url)
        page.wait_for("document.querySelectorAll('article').length === 2")
    assert page.problems == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page: Page, tmp_path: Path, width: int) -> None:
    long = "x" * 3000
    item = Item(task="pair", chat=chat_of(("user", long)), replies=(long, "short"))
    toy = Session([item], tmp_path / "r.jsonl", "a" * 40, Questions({}, True))
    with served(toy) as server:
        page.set_view(width, 800)
        page.goto(server.url)
        page.wait_for("document.querySelectorAll('article').length === 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
