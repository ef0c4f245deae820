"""Previews of the chats that a principle leads to, with placeholders for unknown texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cai import templates
from cai.constitution.schema import Constitution, Principle
from cai.records import Chat, chat_of

REQUEST = "(the request)"
REPLY = "(the reply)"
OTHER_REPLY = "(the other reply)"
CRITIQUE = "(the critique)"


class Rendering(NamedTuple):
    """One chat as it is sent to the model."""

    stage: str
    """critique, revision or compare"""
    chat: Chat
    prefill: str
    """Beginning of the model's turn."""


def renderings(constitution: Constitution, principle: Principle) -> Iterator[Rendering]:
    """One chat for each of the principle's texts."""
    prompt = chat_of(("user", REQUEST))
    kind = next(iter(principle.applies_to), None)
    shots = constitution.examples.critique_for(kind)
    if principle.critique:
        chat = templates.critique_chat(shots, prompt, REPLY, principle)
        yield Rendering("critique", chat, "")
    if principle.revision:
        chat = templates.revision_chat(shots, prompt, REPLY, principle, CRITIQUE)
        yield Rendering("revision", chat, "")
    if principle.compare:
        shots_compare = constitution.examples.compare
        chat = templates.compare_chat(shots_compare, prompt, REPLY, OTHER_REPLY, principle.compare)
        yield Rendering("compare", chat, templates.VERDICT)
