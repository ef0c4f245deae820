"""The work on a model's text grows with its length, and not with the square of it.

100,000 characters of each sort: linear work takes milliseconds, quadratic work minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from time_limit import within

from cai import reply_parsing, templates
from cai.constitution import load_constitution
from cai.data.filters import prompt_key
from cai.data.languages import detect_language
from cai.data.near_duplicates import NearDuplicates
from cai.data.pii import find_personal_data
from cai.data.words import shingles, word_ngrams
from cai.generate.diversity import diversity_metrics
from cai.generate.filters import near_copy, not_degenerate
from cai.integrations.reward_requests import strip_end_texts
from cai.lm.base import truncate_at_stop
from cai.modeling.thoughts import split_thoughts
from cai.records import Message, Prompt, chat_of
from cai.reward.penalties import format_faults, length_excess
from cai.rubric import compile_rubric, grade

LENGTH = 100_000
HI = Prompt(chat=chat_of(("user", "hi")))
RUBRICS = [
    compile_rubric(rubric)
    for name in ("refusal_style", "refusal_style_fitted")
    if (rubric := load_constitution(name).rubric)
]
UNITS = [
    "a",
    " ",
    "\n",
    '"',
    'a"',
    "`",
    "```\n",
    "i'm sorry, but i can't ",
    "i am ",
    "人",
    "我不能帮你。",
    "12 ",
    "1. ",
    "a@",
    "a.b:",
    "User: ",
    "<|a",
    "(A) ",
    "Verdict: (A) ",
    "<think>",
    "</think>",
    "e\u0301",
    "\ufdfa",
    ".?! ",
    "Here is: ",
]


def grade_by(rubric_index: int) -> Callable[[str], object]:
    rubric = RUBRICS[rubric_index]
    return lambda text: grade(rubric, prompt=text, response=text[1:], kind="benign")


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "rubric": grade_by(0),
    "fitted rubric": grade_by(1),
    "near_copy": lambda text: near_copy(text, text[1:] + "b"),
    "near_copy of others": lambda text: near_copy(text, text[::-1]),
    "not_degenerate": lambda text: not_degenerate(HI, text),
    "parse_reply": lambda text: reply_parsing.parse_reply(text, finished=False),
    "parse_first_reply": lambda text: reply_parsing.parse_first_reply(text, finished=False),
    "parse_message": lambda text: reply_parsing.parse_message(text, finished=False),
    "parse_verdict": templates.parse_verdict,
    "parse_comparison": lambda text: templates.parse_comparison(chat_of(("user", text))),
    "fence": templates.fence,
    "transcript": lambda text: templates.transcript((Message(role="user", content=text),)),
    "split_thoughts": split_thoughts,
    "truncate_at_stop": lambda text: truncate_at_stop(text, ["\n\n", "zz"]),
    "strip_end_texts": lambda text: strip_end_texts(text, ["<|im_end|>", "a", "12 ", "`"]),
    "personal data": lambda text: find_personal_data(text[: LENGTH // 5], "US"),
    "language": detect_language,
    "prompt_key": lambda text: prompt_key(Prompt(chat=chat_of(("user", f"{text}.")))),
    "word_ngrams": lambda text: word_ngrams(text, 8),
    "shingles": shingles,
    "near duplicates": lambda text: NearDuplicates(0.8).seen(text[: LENGTH // 5]),
    "diversity": lambda text: diversity_metrics([text, text]),
    "format_faults": format_faults,
    "length_excess": lambda text: length_excess(text, 10),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_long_text_is_no_burden(name: str) -> None:
    for unit in UNITS:
        text = (unit * LENGTH)[:LENGTH]
        with within(seconds=5):
            FUNCTIONS[name](text)
