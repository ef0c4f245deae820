"""What a chat template writes around a reply, and how it is kept from thinking: by rendering.

A probe is a small dialogue that the template renders, once per tokenizer. No name of a model is
known here. A probe that the template refuses says nothing, and the usual is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cai.modeling.template_probe import (
    LATER,
    QUESTION,
    REPLY,
    SYSTEM,
    THOUGHT,
    TemplateProbe,
    Turns,
)
from cai.modeling.thoughts import closing_tag, is_tag, opened_tag

THINK = "<think>"
_SWITCH = re.compile(r"\w*(?:think|reason)\w*", re.IGNORECASE)
"""Names in a template that may be variables on thinking."""

NOTHING: Mapping[str, Any] = {"tools": [], "documents": []}
"""For templates that do not check whether there are any."""
_WORD = re.compile(r"<[^<>]+>|\[[^\[\]]+\]|◁[^◁▷]+▷")
"""What may be a tag."""


@dataclass(frozen=True)
class Thought:
    """How a model that thinks closes its thought."""

    marker: str
    """Ends the thought; the reply follows."""
    closing: str
    """Written where the model does not end its thought in time."""
    opening: str = ""
    """Tag that begins a thought; empty where a reply has channels."""
    is_open: bool = False
    """Whether the prompt begins the thought."""


@dataclass(frozen=True)
class ChatFormat:
    """What the probes say about a template."""

    source: str
    """The template."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Passed to the template."""
    suffix: str = ""
    """Written after a prompt: closes the thought, or opens the channel of replies."""
    suffix_follows: str = ""
    """The suffix is left out where the prompt ends otherwise: some templates let a message say that
    there is no thought."""
    tail: str = ""
    """What a prompt has after the user's last text, with the suffix."""
    lead: str = ""
    """White space that the template writes between a prompt and the reply."""
    end: str | None = None
    """The control token after the last turn, if it is the assistant's. None: there is none."""
    later_end: str | None = None
    """The control token after an earlier turn, if it ends the user's turns as well."""
    thought: Thought | None = None
    """None: the model does not think."""
    takes_system: bool = True
    """Whether a prompt holds a system message at its beginning."""
    takes_later_system: bool = True
    """Whether a prompt holds system messages between other turns."""
    takes_repeats: bool = True
    """Whether a prompt tells two turns of one role from an exchange."""
    takes_parts: bool = False
    """Whether a message's text has to be in a list of parts."""
    loses_text: bool = False
    """Whether a prompt lacks the user's text."""


def chat_format(
    tokenizer: Any, source: str, *, thinks: bool, ends: Collection[str] = ()
) -> ChatFormat:
    """What the tokenizer's template `source` writes.

    Args:
        thinks: whether prompts let the model think. Otherwise its thought is switched off by the
            template's own means, or closed at once.
        ends: tokens that end replies, by the model's settings.
    """
    probe = TemplateProbe(tokenizer, source)
    user = ("user", QUESTION)
    plain, loses_text = _first_prompt(probe)
    if plain is None or QUESTION not in plain:
        return ChatFormat(source, loses_text=loses_text)
    probe.variables |= _switches(probe, on=thinks)
    bare = probe.render([user]) or ""
    prompt = probe.render([user], prompt=True) or plain
    dialogue = probe.render([user, ("assistant", REPLY)]) or ""
    end, later_end = _ends(probe, bare, dialogue, ends)
    header = _header(prompt, dialogue)
    has_channel = bool(prompt != bare and probe.first_token(header)) and opened_tag(header) is None
    has_channel = has_channel and not _writes_thought(header)
    suffix, thought = "", None
    if thinks:
        suffix = header if prompt == bare and not _writes_thought(header) else ""
        turn = later_end + prompt.removeprefix(bare) if later_end else ""
        thought = (
            Thought(header.strip(), turn + header)
            if has_channel
            else _tagged_thought(prompt, header, source)
        )
    else:
        suffix = _closing_suffix(probe, prompt, header)
    return ChatFormat(
        source,
        probe.variables,
        suffix,
        _opened_tail(prompt) if suffix and not thinks else "",
        prompt.rpartition(QUESTION)[2] + suffix,
        "" if suffix else _lead(prompt, dialogue),
        end,
        later_end,
        thought,
        takes_system=_keeps(probe, [("system", SYSTEM), user]),
        takes_later_system=_keeps(
            probe, [("system", SYSTEM), user, ("assistant", REPLY), ("system", LATER), user]
        ),
        takes_repeats=_reads_roles(probe),
        takes_parts=probe.takes_parts,
    )


def _first_prompt(probe: TemplateProbe) -> tuple[str | None, bool]:
    """(a prompt, whether one lost its text), with the probe set as the template needs it: a message
    as text or in parts, and lists of tools and documents, which are empty.
    """
    loses_text = False
    prompt = None
    for variables in ({}, NOTHING):
        for probe.takes_parts in (False, True):
            probe.variables = dict(variables)
            prompt = probe.render([("user", QUESTION)], prompt=True)
            if prompt is not None and QUESTION in prompt:
                return prompt, loses_text
            loses_text = loses_text or prompt is not None
    return prompt, loses_text


def _reads_roles(probe: TemplateProbe) -> bool:
    """Whether two turns of the user differ from one of each. A refusal is seen when it happens."""
    user = ("user", QUESTION)
    repeated = probe.render([user, ("user", LATER)])
    if repeated is None:
        return True
    has_both = QUESTION in repeated and LATER in repeated
    return has_both and repeated != probe.render([user, ("assistant", LATER)])


def _keeps(probe: TemplateProbe, turns: Turns) -> bool:
    """Whether a prompt holds every text. A refusal is seen when it happens: it loses nothing."""
    prompt = probe.render(turns, prompt=True)
    return prompt is None or all(text in prompt for _, text in turns)


def _ends(
    probe: TemplateProbe, bare: str, dialogue: str, ends: Collection[str]
) -> tuple[str | None, str | None]:
    """The tokens that end the last turn, and a turn between others.

    What follows such a turn may as well begin the next one: it has to end the user's turn too.
    Where nothing follows the last turn, what follows an earlier one ends it, if the settings or the
    user's turn say so. Some models end a reply with the token that begins the user's next turn.
    """
    user = ("user", QUESTION)
    longer = probe.render([user, ("assistant", REPLY), ("user", LATER)]) or ""
    if REPLY not in dialogue:
        if REPLY not in longer:
            return None, None
        # the template refuses a dialogue that ends with a reply
        dialogue = longer.partition(REPLY)[0] + REPLY
    after_reply = probe.first_token(longer.rpartition(REPLY)[2].partition(LATER)[0])
    after_user = probe.first_token(bare.rpartition(QUESTION)[2])
    end = probe.first_token(dialogue.rpartition(REPLY)[2])
    if end is None:
        before_reply = probe.first_token(dialogue.partition(QUESTION)[2].partition(REPLY)[0])
        end = after_reply if after_reply in (before_reply, *ends) else None
    return end, after_reply if after_reply == after_user else None


def _header(prompt: str, dialogue: str) -> str:
    """What a dialogue has between the prompt and the reply; empty if it is white space."""
    header = _before_reply(prompt, dialogue)
    return header if header.strip() else ""


def _lead(prompt: str, dialogue: str) -> str:
    """The same if it is nothing but white space."""
    lead = _before_reply(prompt, dialogue)
    return "" if lead.strip() else lead


def _before_reply(prompt: str, dialogue: str) -> str:
    if not dialogue.startswith(prompt) or REPLY not in dialogue[len(prompt) :]:
        return ""
    return dialogue[len(prompt) :].partition(REPLY)[0]


def _tags(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if is_tag(word)]


def _usual_tag(*texts: str) -> str:
    """The first tag in the texts that opens a thought."""
    tags = (tag for text in texts for tag in _tags(text) if opened_tag(tag))
    return next(tags, THINK)


def _writes_thought(text: str) -> bool:
    return bool(_tags(text))


# ---- thinking ----


def _switches(probe: TemplateProbe, *, on: bool) -> dict[str, Any]:
    """The template's variables that turn thinking off, or those that turn it on.

    A variable that changes the prompt as False and True do is a switch. One whose word is written
    into the prompt is a degree: the lowest, while thinking is off.
    """
    values: dict[str, Any] = {}
    turns = [("user", QUESTION)]
    default = probe.render(turns, prompt=True)
    for name in sorted(set(_SWITCH.findall(probe.source))):
        if not name.isidentifier():
            continue
        false, true, low, high = (
            probe.render(turns, prompt=True, **{name: value})
            for value in (False, True, "low", "high")
        )
        if low is not None and high is not None and _word_is_written(low, high):
            if not on:
                values[name] = "low"
        elif false is not None and true is not None and false != true:
            if not on:
                values[name] = False
            elif default == false:
                values[name] = True
    return values


def _word_is_written(low: str, high: str) -> bool:
    return low != high and low.replace("low", "high") == high


def _closing_suffix(probe: TemplateProbe, prompt: str, header: str) -> str:
    """What follows a prompt so that the reply itself is next."""
    tail = prompt.rpartition(QUESTION)[2]
    tag = opened_tag(tail)
    if tag is not None:
        return _closing(tail, tag)
    if header:  # the template's own way: an empty thought, the channel of replies, the turn's head
        return header
    if _writes_thought(tail) or probe.variables:
        return ""
    if _writes_thought(prompt):  # the template's instructions to the model have tags
        return _empty_thought(_usual_tag(prompt))
    tag = _usual_tag(probe.source)
    thought = f"{tag}\n{THOUGHT}\n{closing_tag(tag)}\n\n{REPLY}"
    turns = [("user", QUESTION), ("assistant", thought), ("user", LATER)]
    earlier = probe.render(turns, prompt=True) or THOUGHT
    if THOUGHT in earlier or REPLY not in earlier:
        return ""
    return _empty_thought(tag)  # the template cuts thoughts


def _opened_tail(prompt: str) -> str:
    """The end of a prompt from the tag on that opens a thought; empty if it opens none."""
    tail = prompt.rpartition(QUESTION)[2]
    tag = opened_tag(tail)
    return "" if tag is None else tag + tail.rpartition(tag)[2]


def _closing(tail: str, tag: str) -> str:
    """Closes the thought that `tail` opens, on lines of its own if the tag has one."""
    follows = tail.rpartition(tag)[2]
    return f"\n{closing_tag(tag)}\n\n" if "\n" in follows else closing_tag(tag)


def _empty_thought(tag: str) -> str:
    """A thought that is closed at once: on lines of its own between tags such as <think>."""
    return f"{tag}{_line(tag)}{_closing(tag + _line(tag), tag)}"


def _line(tag: str) -> str:
    """What usually follows the tag that opens a thought."""
    return "\n" if tag.startswith("<") and not tag.startswith("<|") else ""


def _tagged_thought(prompt: str, header: str, source: str) -> Thought:
    tail = prompt.rpartition(QUESTION)[2]
    tag = opened_tag(tail)
    if tag is not None:
        return Thought(closing_tag(tag), _closing(tail, tag), tag, is_open=True)
    tag = _usual_tag(header, prompt, source)
    return Thought(closing_tag(tag), _closing(tag + _line(tag), tag), tag)
