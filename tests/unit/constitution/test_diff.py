"""Digests of the parts of a constitution, and the difference of two constitutions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from constitution_texts import RUBRIC, SMALL, bare, write

from cai.constitution import Change, diff, digests, load_constitution


def test_digests_do_not_depend_on_how_it_is_written(tmp_path: Path) -> None:
    same = SMALL.replace("# a comment", "# another").replace(
        "name: small\nversion: 1.0.0\n", 'version: "1.0.0"\nname: small\n'
    )
    same = same.replace(
        "    category: honesty\n    weight: 3\n", "    weight: 3.0\n    category: 'honesty'\n"
    )
    same = same.replace(
        "{disallowed: refuse, benign: comply}", "{benign: comply, disallowed: refuse}"
    )
    assert same != SMALL
    first = load_constitution(write(tmp_path, "1.yaml", SMALL))
    second = load_constitution(write(tmp_path, "2.yaml", same))
    assert digests(first) == digests(second)
    assert list(digests(first)) == [
        "principle:no-harm",
        "principle:honest",
        "examples:critique",
        "examples:compare",
        "examples:grade",
        "rubric",
    ]
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in digests(first).values())
    assert diff(first, second) == []


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (
            "could hurt somebody",
            "might hurt somebody",
            Change("changed", "principle:no-harm", ("critique",)),
        ),
        ("weight: 3", "weight: 2", Change("changed", "principle:honest", ("weight",))),
        ("No, it is rock.", "No, it is stone.", Change("changed", "examples:critique")),
        ("The first is kind.", "It is kind.", Change("changed", "examples:compare")),
        ("{ideal: 1.0}", "{ideal: 1.5}", Change("changed", "rubric", ("weights",))),
        (RUBRIC, "", Change("removed", "rubric")),
    ],
)
def test_a_digest_changes_only_where_the_text_was_edited(
    tmp_path: Path, old: str, new: str, change: Change
) -> None:
    assert SMALL.count(old) == 1
    before = load_constitution(write(tmp_path, "1.yaml", SMALL))
    after = load_constitution(write(tmp_path, "2.yaml", SMALL.replace(old, new)))
    assert diff(before, after) == [change]
    old_digests = digests(before)
    new_digests = digests(after)
    changed = {key for key in old_digests if old_digests[key] != new_digests.get(key)}
    assert changed == {change.key}


def test_diff_adds_and_removes(tmp_path: Path) -> None:
    before = load_constitution(write(tmp_path, "0.yaml", bare("x", "a", "b")))
    after = load_constitution(write(tmp_path, "1.yaml", bare("x", "b", "c")))
    assert diff(before, after) == [Change("removed", "principle:a"), Change("added", "principle:c")]
