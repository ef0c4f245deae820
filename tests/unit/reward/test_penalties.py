"""Formatting faults of replies."""

from __future__ import annotations

import pytest

from cai.reward.penalties import format_faults


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A plain answer with `code` and ```\nblock\n``` in it.", []),
        ("text <|im_end|> more", ["control tokens"]),
        ("[INST] go", ["control tokens"]),
        ("Fine.\n\nHuman: and now?", ["another turn"]),
        ("The user: he said so. A<b and c|d>e", []),
    ],
)
def test_faults_of_form(reply: str, expected: list[str]) -> None:
    assert format_faults(reply) == expected
