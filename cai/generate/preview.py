"""What a model is asked because of a principle, written out: the exact chats, with stand-ins for what is not known yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cai import templates
from cai.constitution.schema import Constitution, Principle
from cai.records import Chat, chat_of

REQUEST, REPLY, OTHER, CRITIQUE = "(the request)", "(the reply)", "(the other reply)", "(the critique)"


class Rendering(NamedTuple):
    stage: str
    """critique, revision or compare"""
    chat: Chat
    prefill: str
    """How the model's own turn begins."""


def renderings(constitution: Constitution, principle: Principle) -> Iterator[Rendering]:
    """One chat per text that the principle has."""
    asked, kind = chat_of(("user", REQUEST)), next(iter(principle.applies_to), None)
    shots = constitution.examples.critique_for(kind)
    if principle.critique:
        yield Rendering("critique", templates.critique_chat(shots, asked, REPLY, principle), "")
    if principle.revision:
        yield Rendering("revision", templates.revision_chat(shots, asked, REPLY, principle, CRITIQUE), "")
    if principle.compare:
        chat = templates.compare_chat(constitution.examples.compare, asked, REPLY, OTHER, principle.compare)
        yield Rendering("compare", chat, templates.VERDICT)
