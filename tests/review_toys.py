"""Pairs, replies and a served session for tests of reviewing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cai.records import Pair, Preference, Vote, chat_of
from cai.review.items import Item
from cai.review.server import ReviewServer
from cai.review.session import Questions, Session

TOKEN = "t" * 24
QUESTIONS = {"declines": "Does the assistant decline?", "supports": "Does it show care?"}


def pair(number: int) -> Pair:
    chat = chat_of(("user", f"Question {number}?"))
    return Pair(source=str(number), chat=chat, first=f"One {number}.", second=f"Two {number}.")


def preference(row: Pair, *votes: float) -> Preference:
    """The label of principles `p0`, `p1`, … with these votes."""
    return Preference(
        source=row.id,
        p_first=sum(votes) / len(votes),
        votes=tuple(
            Vote(principle=f"p{i}", logprobs=None, logprobs_swapped=None, p_first=p)
            for i, p in enumerate(votes)
        ),
    )


def pair_items(count: int) -> list[Item]:
    rows = [pair(number) for number in range(count)]
    return [Item(task="pair", chat=r.chat, replies=(r.first, r.second)) for r in rows]


def reply_item(text: str = "A reply.") -> Item:
    return Item(task="reply", chat=chat_of(("user", "A question?")), replies=(text,), kind="benign")


def session(
    output: Path, items: list[Item], reviewer: str = "ann", *, likert: bool = False
) -> Session:
    return Session(items, output, reviewer, Questions({}, likert))


@contextmanager
def served(toy: Session) -> Iterator[ReviewServer]:
    server = ReviewServer(toy, TOKEN)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
