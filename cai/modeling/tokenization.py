"""Conversion between chats and token ids, the same for training, sampling and scoring.

Text inside messages never becomes a control token.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cai.errors import BackendError, blame
from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.records import Chat, Message, message_dicts
from cai.store import digest


@dataclass(frozen=True)
class Renderer:
    """A tokenizer and its chat template."""

    tokenizer: PreTrainedTokenizerBase

    def prompt_ids(self, chat: Chat, prefill: str = "") -> list[int]:
        """The chat up to the assistant's next turn, plus `prefill` as the start of its reply.

        Text that looks like a control token inside a message is encoded as plain text, so no
        message can open or close a turn. Where a template refuses the chat (many know no system
        role, or want turns to alternate), the system's text opens the first user turn, and
        neighbouring turns of one role are joined.

        Raises:
            BackendError: the template refuses that too.
        """
        try:
            ids = self._template_ids(chat)
        except TemplateError:
            with blame(BackendError, "the model's chat template refuses the chat"):
                ids = self._template_ids(plain_turns(chat))
        return ids + (self.text_ids(prefill) if prefill else [])

    def _template_ids(self, chat: Chat) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            message_dicts(chat),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
        return ids

    def text_ids(self, text: str) -> list[int]:
        """Plain text without control tokens of any kind."""
        ids: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return ids

    def response_ids(self, text: str) -> list[int]:
        """A complete assistant reply with its end token, as a policy emits and is trained on it."""
        return [*self.text_ids(text), self.eos_token_id]

    def text(self, ids: list[int]) -> str:
        """The reply as text, without control tokens and outer white space."""
        decoded: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded.strip()

    @property
    def eos_token_id(self) -> int:
        """The token that ends a turn (eos)."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_token_id(self) -> int:
        """The padding token. It may equal `eos_token_id`: masks come from lengths."""
        pad_token_id = self.tokenizer.pad_token_id
        return int(self.eos_token_id if pad_token_id is None else pad_token_id)

    @property
    def fingerprint(self) -> str:
        template = str(self.tokenizer.chat_template)
        return digest(template, self.tokenizer.backend_tokenizer.to_str())


def plain_turns(chat: Chat) -> Chat:
    """The chat in alternating turns of user and assistant: system texts become the beginning of the
    next user turn, and neighbouring turns of one role are one, with an empty line between them.
    """
    turns: list[Message] = []
    for message in chat:
        role = "user" if message.role == "system" else message.role
        if turns and turns[-1].role == role:
            text = f"{turns.pop().content}\n\n{message.content}"
        else:
            text = message.content
        turns.append(Message(role=role, content=text))
    return tuple(turns)


def load_renderer(folder: Path | str) -> Renderer:
    """The tokenizer saved with a model.

    Raises:
        BackendError: it cannot be loaded, or it lacks a chat template or an end token.
    """
    with blame(BackendError, f"tokenizer of {folder}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        raise BackendError(f"{folder}: the tokenizer has no chat template; cai needs a chat model")
    if tokenizer.eos_token_id is None:
        raise BackendError(
            f"{folder}: the tokenizer names no end-of-sequence token; cai needs one to end a reply"
        )
    if header := missing_header(tokenizer):
        _warn_of_missing_header(str(folder), header)
    return Renderer(tokenizer)


def missing_header(tokenizer: Any) -> str | None:
    """What begins a reply, and is missing at a prompt's end; None if nothing is.

    A chat template that ignores `add_generation_prompt` leaves a prompt without it. Templates in
    which a reply simply follows the prompt, as Mistral's, miss nothing.
    """
    question = {"role": "user", "content": "Hello"}
    reply = {"role": "assistant", "content": "Goodbye"}
    try:
        bare, prompt, dialogue = (
            tokenizer.apply_chat_template(chat, add_generation_prompt=flag, tokenize=False)
            for chat, flag in (([question], False), ([question], True), ([question, reply], False))
        )
    except (TemplateError, TypeError, ValueError):
        return None  # prompts that are needed will show what is wrong
    if prompt != bare or not dialogue.startswith(prompt):
        return None
    header, mark, _ = dialogue[len(prompt) :].partition(reply["content"])
    return header.strip() or None if mark else None


@functools.cache
def _warn_of_missing_header(name: str, header: str) -> None:
    """Say it once: a command loads the tokenizer of a model several times."""
    print(
        f"{name}: the chat template ignores add_generation_prompt: prompts end without "
        f"{header!r}, and the model may go on with the user's turn: mend the template",
        file=sys.stderr,
    )


def token_counter(spec: str) -> Callable[[str], int]:
    """A function text -> number of tokens of the model that `spec` names.

    For an endpoint, whose tokenizer is unknown, four characters count as one token.
    """
    weights = local_model_name(spec)
    if weights is None:
        return lambda text: -(-len(text) // 4)
    renderer = load_renderer(resolve_model_path(weights))
    return lambda text: len(renderer.text_ids(text))


def tokenizer_digest(spec: str) -> str:
    """What decides the counts of `token_counter`."""
    weights = local_model_name(spec)
    if weights is None:
        return "4 characters a token"
    tokenizer = load_renderer(resolve_model_path(weights)).tokenizer
    return digest(tokenizer.backend_tokenizer.to_str())
