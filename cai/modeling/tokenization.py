"""From a chat to token ids and back, the same way at training, sampling and scoring time. Untrusted text stays text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cai.errors import BackendError, blame
from cai.modeling.model_files import local_weights, locate
from cai.records import Chat, message_dicts
from cai.store import digest


@dataclass(frozen=True)
class Renderer:
    """A tokenizer and its chat template."""

    tokenizer: PreTrainedTokenizerBase

    def prompt_ids(self, chat: Chat, prefill: str = "") -> list[int]:
        """The chat up to the place where the assistant speaks, plus `prefill` as the start of its reply.

        What looks like a control token inside a message is encoded as plain text, so no message can open or close a turn.
        """
        messages = message_dicts(chat)
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, sanitize_control_tokens=True
        )
        return ids + (self.text_ids(prefill) if prefill else [])

    def text_ids(self, text: str) -> list[int]:
        """Plain text without control tokens of any kind."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def reply_ids(self, text: str) -> list[int]:
        """A whole assistant reply with the token that ends it: what a policy emits and a trainer learns."""
        return [*self.text_ids(text), self.stop_id]

    def text(self, ids: list[int]) -> str:
        """The reply as text: control tokens dropped, outer white space too."""
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded.strip()

    @property
    def stop_id(self) -> int:
        """The token that ends a turn."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """Fills up rows. It may equal `stop_id`: masks come from lengths, never from this number."""
        pad = self.tokenizer.pad_token_id
        return int(self.stop_id if pad is None else pad)

    @property
    def fingerprint(self) -> str:
        return digest(str(self.tokenizer.chat_template), self.tokenizer.backend_tokenizer.to_str())


def load_renderer(folder: Path | str) -> Renderer:
    """The tokenizer saved with a model. A model without chat template or end token is an error: cai speaks in turns."""
    with blame(BackendError, f"tokenizer of {folder}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        raise BackendError(f"{folder}: the tokenizer has no chat template; cai needs a chat model")
    if tokenizer.eos_token_id is None:
        raise BackendError(f"{folder}: the tokenizer names no end-of-sequence token; cai needs one to end a reply")
    return Renderer(tokenizer)


def token_counter(spec: str) -> Callable[[str], int]:
    """text -> tokens of the model that `spec` names. Where only an endpoint knows, four characters are taken for one."""
    weights = local_weights(spec)
    if weights is None:
        return lambda text: -(-len(text) // 4)
    renderer = load_renderer(locate(weights))
    return lambda text: len(renderer.text_ids(text))
