"""Thoughts of reasoning models, which are cut from every reply: nobody grades or trains on them."""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)think(?:ing)?>|\[(/?)THINK\]", re.IGNORECASE)


def cut_thoughts(text: str) -> tuple[str, bool]:
    """`text` without its <think> blocks, and whether the last block was closed.

    A closing tag without an opening one ends a thought that the chat template began. What follows
    an opening tag that is never closed is a thought too. Text without tags stays as it is.
    """
    kept: list[str] = []
    start, depth, has_tags = 0, 0, False
    for tag in _TAG.finditer(text):
        has_tags = True
        is_closing = bool(tag.group(1) or tag.group(2))
        if not is_closing:
            if depth == 0:
                kept.append(text[start : tag.start()])
            depth += 1
        elif depth > 0:
            depth -= 1
        else:
            kept.clear()
        start = tag.end()
    if not has_tags:
        return text, True
    if depth == 0:
        kept.append(text[start:])
    return "".join(kept).strip(), depth == 0
