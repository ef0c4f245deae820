"""Conversion between chats and token ids, the same for training, sampling and scoring.

Text inside messages never becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from cai.errors import BackendError, blame
from cai.modeling.chat_format import ChatFormat, chat_format
from cai.modeling.continuations import Context, Options, encode, encode_after, literal
from cai.modeling.end_tokens import config_eos
from cai.modeling.template_probe import QUESTION, as_parts
from cai.modeling.thoughts import Split, is_tag, split_thoughts, without_wrapper, writes_wrapper
from cai.records import Chat, Message, message_dicts
from cai.store import digest

WORKING_TEMPLATES = (
    "cai works with templates that write turns of user and assistant from plain text, such as "
    "those of Llama, Gemma, Mistral, Phi, Qwen, DeepSeek and gpt-oss"
)

_CONTROL = re.compile(r"<[|｜].+[|｜]>")
"""How control tokens are spelt that a template need not have, such as those of code completion."""


@dataclass(frozen=True)
class Renderer:
    """A tokenizer and its chat template.

    Args:
        thinks: whether prompts let a thinking model think. Otherwise its thought is closed at once,
            as in all that is trained.
        config_eos: the end tokens that the model's generation config names.
    """

    tokenizer: PreTrainedTokenizerBase
    thinks: bool = False
    config_eos: tuple[int, ...] = ()

    def prompt_ids(self, chat: Chat, prefill: str = "") -> list[int]:
        """The chat up to the assistant's next turn, plus `prefill` as the start of its reply.

        Text that looks like a control token inside a message is encoded as plain text, so no
        message can open or close a turn. Where a template refuses or loses the chat (many know no
        system role, or want turns to alternate), the system's text opens the first user turn, and
        neighbouring turns of one role are joined.

        Raises:
            BackendError: the template refuses that too.
        """
        try:
            ids = self._template_ids(self._without_lost_turns(chat))
        except Exception:  # a template is a program of somebody else
            ids = self._plain_ids(chat)
        return ids + self.reply_ids(prefill)

    def _without_lost_turns(self, chat: Chat) -> Chat:
        """The chat in turns that the template writes. Some silently leave out system messages, or
        count turns and do not read whose they are.
        """
        systems = [i for i, message in enumerate(chat) if message.role == "system"]
        is_first = systems == [0]
        writes_all = self.format.takes_system if is_first else self.format.takes_later_system
        writes_all = writes_all or not systems
        repeats = any(a.role == b.role for a, b in pairwise(chat))
        if writes_all and (self.format.takes_repeats or not repeats):
            return chat
        head = chat[:1] if systems[:1] == [0] and self.format.takes_system else ()
        return (*head, *plain_turns(chat[len(head) :]))

    def _plain_ids(self, chat: Chat) -> list[int]:
        try:
            return self._template_ids(plain_turns(chat))
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BackendError(
                f"the model's chat template refuses the chat: {reason}; {WORKING_TEMPLATES}"
            ) from error

    def _template_ids(self, chat: Chat) -> list[int]:
        return self._encoded(chat, self._prompt_template, True, self.format.variables)

    def _encoded(
        self, chat: Chat, template: str, prompt: bool, variables: Mapping[str, Any]
    ) -> list[int]:
        messages: list[dict[str, Any]] = list(message_dicts(chat))
        if self.format.takes_parts:
            messages = [{**turn, "content": as_parts(turn["content"])} for turn in messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            add_generation_prompt=prompt,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
            **variables,
        )
        return ids

    def conversation_ids(self, chat: Chat, *, prompt: bool = False, **variables: Any) -> list[int]:
        """A whole conversation as the template writes it, replies with it: what published reward
        models and guards read. Text inside messages stays text, as in `prompt_ids`.

        Args:
            prompt: whether the model's own turn follows.
            variables: given to the template besides its usual ones.

        Raises:
            BackendError: the template refuses the conversation.
        """
        source = self.format.source.removesuffix("\n")
        known = literal(sorted(self._plain_tokens))
        template = f"{source}{{% set _control_tokens = {known} %}}"

        def rendered(turns: Chat) -> list[int]:
            return self._encoded(turns, template, prompt, {**self.format.variables, **variables})

        try:
            return rendered(self._without_lost_turns(chat))
        except Exception:  # a template is a program of somebody else
            with blame(BackendError, "the model's chat template refuses the conversation"):
                return rendered(plain_turns(chat))

    @cached_property
    def format(self) -> ChatFormat:
        """What the chat template writes."""
        source: str = self.tokenizer.get_chat_template()
        ends = {self.tokenizer.eos_token_id, *self.config_eos} - {None}
        names = self.tokenizer.convert_ids_to_tokens(sorted(ends))
        return chat_format(self.tokenizer, source, thinks=self.thinks, ends=names)

    @cached_property
    def _prompt_template(self) -> str:
        """The template, with what closes the thought, so that both are encoded together.

        The list of control tokens is written nowhere: it tells the tokenizer that they are some.
        """
        suffix, known = literal(self.format.suffix), literal(sorted(self._plain_tokens))
        source = self.format.source.removesuffix("\n")
        if self.format.suffix_follows:
            follows = literal(self.format.suffix_follows)
            source = f"{{% set _prompt %}}{source}{{% endset %}}{{{{ _prompt }}}}"
            suffix = f"{suffix} if _prompt.endswith({follows}) else ''"
        return f"{source}{{% set _control_tokens = {known} %}}{{{{ {suffix} }}}}"

    @cached_property
    def _plain_tokens(self) -> frozenset[str]:
        """Control tokens that the tokenizer does not list as special: ends of turns, thoughts."""
        added = self.tokenizer.added_tokens_decoder.values()
        ends = {self.format.end, self.format.later_end}
        return frozenset(
            token.content
            for token in added
            if not token.special
            and not token.content.isspace()
            and (
                token.content in ends
                or is_tag(token.content)
                or _CONTROL.fullmatch(token.content)
                or token.content in self.format.source
            )
        )

    def text_ids(self, text: str) -> list[int]:
        """A plain text on its own, without control tokens of any kind."""
        if any(token in text for token in self._plain_tokens):
            return encode_after(self.tokenizer, "", text, sorted(self._plain_tokens))
        return encode(self.tokenizer, text, plain=True)

    def text_lengths(self, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens of several texts, as `text_ids` encodes each."""
        if not self.tokenizer.is_fast:
            return [len(self.text_ids(text)) for text in texts]
        self.text_ids("")  # leaves the backend set for one text: no limit, no special tokens
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        lengths = [len(encoding) for encoding in encodings]
        for index, text in enumerate(texts):
            if any(token in text for token in self._plain_tokens):
                lengths[index] = len(self.text_ids(text))
        return lengths

    def control_ids(self, text: str) -> list[int]:
        """Text of the template, with its control tokens, as it follows other text."""
        return self._after(QUESTION).control_ids(text)

    def reply_ids(self, text: str) -> list[int]:
        """An assistant's reply as it follows a prompt, without its end and control tokens."""
        return self._reply_context.ids(self._with_lead(text))

    def option_ids(
        self, prefill: str, options: Sequence[str], *, after_thought: bool = False
    ) -> Options:
        """(what follows a prompt, what follows it in each option), where the reply is `prefill` and
        an option.

        Args:
            after_thought: whether the reply follows a thought.
        """
        if after_thought:
            return self._thought_context.option_ids(prefill, options)
        if not prefill:
            return self._reply_context.option_ids("", [self._with_lead(text) for text in options])
        return self._reply_context.option_ids(self._with_lead(prefill), options)

    def response_ids(self, text: str) -> list[int]:
        """A complete assistant reply with its end token, as a policy emits and is trained on it.

        Thoughts in it are left out.
        """
        return [*self.reply_ids(split_thoughts(text).text), self.end_token_id]

    def _with_lead(self, text: str) -> str:
        return self.format.lead + text if text and not text[0].isspace() else text

    @cached_property
    def _reply_context(self) -> Context:
        return self._after(QUESTION + self.format.tail)

    @cached_property
    def _thought_context(self) -> Context:
        thought = self.format.thought
        return self._after(QUESTION + (self.format.tail if thought is None else thought.closing))

    def _after(self, before: str) -> Context:
        return Context(self.tokenizer, before, tuple(sorted(self._plain_tokens)))

    def text(self, ids: Sequence[int]) -> str:
        """The reply as text, without control tokens and outer white space.

        Tags of thoughts stay, for `cai.modeling.thoughts` to cut.
        """
        kept = [token for token in ids if token not in self._silent_ids]
        decoded: str = self.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return decoded.strip()

    def reply(self, ids: Sequence[int]) -> Split:
        """The reply apart from its thoughts."""
        return self.split(self.text(ids))

    def split(self, text: str) -> Split:
        """A reply as text, apart from its thoughts, and without tags around the whole of it that
        the template knows.
        """
        parts = split_thoughts(text)
        if writes_wrapper(self.format.source):
            parts = parts._replace(text=without_wrapper(parts.text))
        return parts

    @cached_property
    def _silent_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        tags = {token for token, entry in added if is_tag(entry.content)}
        return (frozenset(self.tokenizer.all_special_ids) | self.stop_ids) - tags

    @property
    def eos_token_id(self) -> int:
        """The tokenizer's end-of-sequence token, which need not end a turn. A tokenizer without one
        ends with what its template writes, or with what the model's settings name.
        """
        eos = self.tokenizer.eos_token_id
        if eos is None and self.format.end is not None:
            eos = self._id_of(self.format.end)
        return int(self.config_eos[0] if eos is None else eos)

    @cached_property
    def end_token_id(self) -> int:
        """The token that ends a reply: what the template writes after one, or else eos."""
        return self.eos_token_id if self.format.end is None else self._id_of(self.format.end)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a reply when they are sampled."""
        ends = {self.eos_token_id, self.end_token_id, self.later_end_id, *self.config_eos}
        return frozenset(ends)

    @property
    def later_end_id(self) -> int:
        """The token that ends an assistant's turn between others."""
        token = self.format.later_end
        return self.end_token_id if token is None else self._id_of(token)

    def _id_of(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    @property
    def pad_token_id(self) -> int:
        """The padding token. It may equal `eos_token_id`: masks come from lengths."""
        pad_token_id = self.tokenizer.pad_token_id
        return int(self.eos_token_id if pad_token_id is None else pad_token_id)

    @property
    def rendering(self) -> str:
        """What prompts and replies have beyond the plain template, as a part of a fingerprint.

        Empty where a reply ends with eos alone, and nothing is switched off.
        """
        chat = self.format
        is_plain = not (chat.variables or chat.suffix or chat.lead or self.thinks)
        if is_plain and self.stop_ids == {self.eos_token_id} and chat.takes_system:
            return ""
        lead = (chat.lead,) if chat.lead else ()
        facts = (sorted(chat.variables.items()), chat.suffix, chat.takes_system, self.thinks, *lead)
        return digest(repr(facts), repr((self.end_token_id, sorted(self.stop_ids))))

    @property
    def fingerprint(self) -> str:
        template = str(self.tokenizer.chat_template)
        return digest(template, self.tokenizer.backend_tokenizer.to_str())

    def save(self, model: Any, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
        """Write a model with this tokenizer. Its generation config ends replies where cai does, so
        that transformers and vLLM stop there too.

        Args:
            weights: of a model whose weights are spread over processes; None: as they are.
        """
        others = self.stop_ids - {self.end_token_id}
        ends = [self.end_token_id, *sorted(others)]
        model.generation_config.eos_token_id = ends if others else ends[0]
        model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)


def plain_turns(chat: Chat) -> Chat:
    """The chat in alternating turns of user and assistant: system texts become the beginning of the
    next user turn, and neighbouring turns of one role are one, with an empty line between them.
    """
    turns: list[Message] = []
    for message in chat:
        role = "user" if message.role == "system" else message.role
        text = message.content
        if turns and turns[-1].role == role:
            text = "\n\n".join(filter(None, (turns.pop().content, text)))
        turns.append(Message(role=role, content=text))
    return tuple(turns)


def load_renderer(folder: Path | str, *, thinks: bool = False) -> Renderer:
    """The tokenizer saved with a model.

    Args:
        thinks: whether prompts let a thinking model think.

    Raises:
        BackendError: it cannot be loaded, it lacks a chat template or an end token, or its template
            leaves out the user's text.
    """
    with blame(BackendError, f"tokenizer of {folder}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise BackendError(f"{folder}: the tokenizer has no chat template; cai needs a chat model")
    ends = [token for token in config_eos(folder) if 0 <= token < len(tokenizer)]
    renderer = Renderer(tokenizer, thinks, tuple(ends))
    with blame(BackendError, f"{folder}: the tokenizer's chat template"):
        loses_text = renderer.format.loses_text
        has_end = bool(renderer.tokenizer.eos_token or renderer.format.end or ends)
    if not has_end:
        raise BackendError(
            f"{folder}: the tokenizer names no end-of-sequence token; cai needs one to end a reply"
        )
    if loses_text:
        raise BackendError(
            f"{folder}: the chat template leaves out the user's text; {WORKING_TEMPLATES}"
        )
    return renderer
