"""Thoughts of reasoning models, which are cut from every reply: nobody grades or trains on them."""

from __future__ import annotations

import re
from typing import NamedTuple

_TAG = re.compile(
    r"<(?P<slash>/?)(?:\w{1,12}:)?(?:think(?:ing)?|thought)>|\[(?P<bracket>/?)THINK\]|"
    r"◁(?P<triangle>/?)think▷|"
    r"<\|(?P<word>START|END)_THINKING\|>"
    r"|<\|channel\|>\s{0,4}(?P<channel>\w{1,20})[^<]{0,60}<\|message\|>",
    re.IGNORECASE,
)
_WRAPPER = re.compile(r"\s*<(?P<name>answer|response)>(?P<text>.*)", re.IGNORECASE | re.DOTALL)
"""Around the reply of some models that think."""
_END = re.compile(r"\s*<\|(?:end|return)\|>$")
"""Of a channel's message, where control tokens are text."""


CUT_THOUGHT = "a reply ends within its thought: there is nothing to judge"
"""Why such a reply has no verdict."""


class Split(NamedTuple):
    """A reply apart from its thoughts."""

    text: str
    is_closed: bool
    """Whether the last thought was closed."""
    thought: str | None
    """None: there was none."""

    @property
    def lacks_reply(self) -> bool:
        """Whether the text ends within its thought."""
        return not self.is_closed and not self.text


def split_thoughts(text: str) -> Split:
    """`text` without its <think> blocks, or without the channels before the final one.

    A closing tag without an opening one ends a thought that the chat template began. What follows
    an opening tag that is never closed is a thought too. Text without tags stays as it is.
    """
    kept: list[str] = []
    thoughts: list[str] = []
    start, depth, has_tags, has_channels = 0, 0, False, False
    for tag in _TAG.finditer(text):
        has_tags = True
        before = text[start : tag.start()]
        if tag["channel"]:
            has_channels = True
            is_final = tag["channel"].lower() == "final"
            thoughts.append(before if depth else "")
            kept, depth = [], 0 if is_final else 1
        elif not _is_closing(tag):
            (thoughts if depth else kept).append(before)
            depth += 1
        else:
            if depth == 0:  # a thought that the prompt opened
                thoughts += [*kept, before]
                kept.clear()
            else:
                thoughts.append(before)
            depth = max(depth - 1, 0)
        start = tag.end()
    if not has_tags:
        return Split(text, True, None)
    (thoughts if depth else kept).append(text[start:])
    thought = "\n".join(filter(None, (part.strip() for part in map(_without_turns, thoughts))))
    reply = "".join(kept).strip()
    if has_channels:
        reply = _END.sub("", reply)
    if depth == 0:
        reply = without_wrapper(reply)
    return Split(reply, depth == 0, thought or None)


def without_wrapper(text: str) -> str:
    """A reply without tags such as <answer> around the whole of it. It may have been cut."""
    match = _WRAPPER.fullmatch(text)
    if match is None:
        return text
    closing = f"</{match['name']}>"
    inner, tag, rest = match["text"].rpartition(closing)
    if not tag:
        return match["text"].strip()
    return text if rest.strip() else inner.strip()


def writes_wrapper(template: str) -> bool:
    """Whether a chat template knows such tags."""
    return any(f"<{name}>" in template for name in ("answer", "response"))


def opened_tag(text: str) -> str | None:
    """The tag of a thought that `text` opens and does not close."""
    tags = list(_TAG.finditer(text))
    if not tags or tags[-1]["channel"] or _is_closing(tags[-1]):
        return None
    return tags[-1].group()


def end_of_thought(text: str) -> int | None:
    """Where the reply begins, after the last tag that closes a thought; None: there is none."""
    ends = [
        tag.end()
        for tag in _TAG.finditer(text)
        if (tag["channel"] or "").lower() == "final" or (not tag["channel"] and _is_closing(tag))
    ]
    return ends[-1] if ends else None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def closing_tag(tag: str) -> str:
    """`</think>` of `<think>`."""
    if tag.startswith("<|"):
        return tag.replace("START", "END")
    return f"{tag[0]}/{tag[1:]}"


def _is_closing(tag: re.Match[str]) -> bool:
    slash = tag["slash"] or tag["bracket"] or tag["triangle"]
    return bool(slash) or (tag["word"] or "").upper() == "END"


def _without_turns(text: str) -> str:
    """A channel's text without the control tokens between two channels, where they are text."""
    return re.sub(r"<\|end\|>(?:<\|start\|>assistant)?", "", text)
