"""Chat formats of many model families, each written anew as a short template.

They have the ways in which real templates differ: system turns kept, joined or refused, strict
turns, dates and tools. Those of models that think are in `thinking_formats.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from template_toys import Family

ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}"
    "{% endif %}{% endfor %}"
)
SPLIT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set system = none %}"
    "{% set loop_messages = messages %}{% endif %}"
)


@dataclass(frozen=True)
class Format:
    """A family's format, and what it gives."""

    template: str
    special: tuple[str, ...]
    eos: str | None
    hi: str
    """The prompt of a user's "Hi", without thinking."""
    system: str
    """The prompt of a system turn "Be brief." and "Hi"."""
    turns: str
    """The prompt of "Hi", "Yes?" and "Bye"."""
    end: str
    """What fine-tuning teaches at the end of a reply."""
    lead: str = field(default="", kw_only=True)
    """White space before a reply, where the template writes some that the prompt lacks."""
    stops: frozenset[str] = frozenset()
    """Other tokens at which sampling stops."""
    added: tuple[str, ...] = ()
    bos: str | None = None
    config_eos: tuple[str, ...] = ()
    thinking: str | None = None
    """The prompt of "Hi" that lets the model think; None: the same prompt."""

    @property
    def family(self) -> Family:
        return Family("", self.special, self.eos, self.added, self.bos, self.config_eos)


L3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
IM = "<|im_start|>"
M = "<|im_end|>\n"

FORMATS: dict[str, Format] = {}
FORMATS["llama2"] = Format(
    SPLIT_SYSTEM
    + ALTERNATE.replace("in messages", "in loop_messages")
    + "{% for m in loop_messages %}{% if loop.first and system is not none %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    ("<unk>", "<s>", "</s>"),
    "</s>",
    "<s>[INST] Hi [/INST]",
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]",
    "<s>[INST] Hi [/INST] Yes? </s><s>[INST] Bye [/INST]",
    "</s>",
    bos="<s>",
    lead=" ",
)
FORMATS["mistral_v1"] = Format(
    "{{ bos_token }}" + ALTERNATE + "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}",
    ("<unk>", "<s>", "</s>"),
    "</s>",
    "<s>[INST] Hi [/INST]",
    "<s>[INST] Be brief.\n\nHi [/INST]",
    "<s>[INST] Hi [/INST]Yes?</s>[INST] Bye [/INST]",
    "</s>",
    bos="<s>",
)
FORMATS["mistral_small"] = Format(
    "{%- set default = 'Today is ' + strftime_now('%Y') + '.' %}{{ bos_token }}"
    + SPLIT_SYSTEM
    + "[SYSTEM_PROMPT]{{ default[:9] if system is none else system }}[/SYSTEM_PROMPT]"
    "{%- for m in loop_messages %}{%- if m['role'] == 'user' %}[INST]"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for block in m['content'] %}{{ block['text'] }}{% endfor %}{% endif %}[/INST]"
    "{%- elif m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'] }}[/SYSTEM_PROMPT]"
    "{%- elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{%- else %}{{ raise_exception('Only user, system and assistant roles are supported!') }}"
    "{%- endif %}{%- endfor %}",
    ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "</s>",
    "<s>[SYSTEM_PROMPT]Today is [/SYSTEM_PROMPT][INST]Hi[/INST]",
    "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST]",
    "<s>[SYSTEM_PROMPT]Today is [/SYSTEM_PROMPT][INST]Hi[/INST]Yes?</s>[INST]Bye[/INST]",
    "</s>",
    bos="<s>",
)
FORMATS["llama3"] = Format(
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{{ bos_token + content if loop.index0 == 0 else content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}",
    (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    "<|end_of_text|>",
    f"<|begin_of_text|>{L3.format('user')}Hi<|eot_id|>{L3.format('assistant')}",
    f"<|begin_of_text|>{L3.format('system')}Be brief.<|eot_id|>{L3.format('user')}Hi<|eot_id|>"
    f"{L3.format('assistant')}",
    f"<|begin_of_text|>{L3.format('user')}Hi<|eot_id|>{L3.format('assistant')}Yes?<|eot_id|>"
    f"{L3.format('user')}Bye<|eot_id|>{L3.format('assistant')}",
    "<|eot_id|>",
    frozenset({"<|end_of_text|>"}),
    bos="<|begin_of_text|>",
    config_eos=("<|end_of_text|>", "<|eot_id|>"),
)
FORMATS["deepseek_v2"] = Format(
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ 'User: ' + m['content'] + '\\n\\n' }}{% elif m['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + m['content'] + eos_token }}{% else %}"
    "{{ m['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "<｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant:",
    "<｜begin▁of▁sentence｜>Be brief.\n\nUser: Hi\n\nAssistant:",
    "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant: Yes?<｜end▁of▁sentence｜>User: "
    "Bye\n\nAssistant:",
    "<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    lead=" ",
)
FORMATS["glm4"] = Format(
    "[gMASK]<sop>{%- for m in messages %}{% if m.role == 'system' %}<|system|>\n{{ m.content }}"
    "{% elif m.role == 'user' %}<|user|>\n{{ m.content }}"
    "{% else %}<|assistant|>\n{{ m.content }}{% endif %}{%- endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    (
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ),
    "<|endoftext|>",
    "[gMASK]<sop><|user|>\nHi<|assistant|>\n",
    "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>\n",
    "[gMASK]<sop><|user|>\nHi<|assistant|>\nYes?<|user|>\nBye<|assistant|>\n",
    "<|user|>",
    frozenset({"<|endoftext|>", "<|observation|>"}),
    config_eos=("<|endoftext|>", "<|user|>", "<|observation|>"),
)
FORMATS["gemma3"] = Format(
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- if messages[0]['content'] is string -%}"
    "{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}{%- else -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}"
    "{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for m in loop_messages -%}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}"
    "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}"
    "{%- if m['content'] is string -%}{{ m['content'] | trim }}{%- else -%}"
    "{%- for item in m['content'] -%}{{ item['text'] | trim }}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}",
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "<eos>",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "<end_of_turn>",
    frozenset({"<eos>"}),
    bos="<bos>",
    config_eos=("<eos>", "<end_of_turn>"),
)
FORMATS["zephyr"] = Format(
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    "{% endfor %}",
    ("<s>", "</s>"),
    "</s>",
    "<|user|>\nHi</s>\n<|assistant|>\n",
    "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\n",
    "<|user|>\nHi</s>\n<|assistant|>\nYes?</s>\n<|user|>\nBye</s>\n<|assistant|>\n",
    "</s>",
    bos="<s>",
)
FORMATS["vicuna"] = Format(
    SPLIT_SYSTEM + "{{ bos_token + (system or 'A chat.') }}{% for m in loop_messages %}"
    "{% if loop.index0 % 2 == 0 %}{{ ' USER: ' + m['content'] }}"
    "{% else %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
    ("<s>", "</s>"),
    "</s>",
    "<s>A chat. USER: Hi ASSISTANT:",
    "<s>Be brief. USER: Hi ASSISTANT:",
    "<s>A chat. USER: Hi ASSISTANT: Yes?</s> USER: Bye ASSISTANT:",
    "</s>",
    bos="<s>",
    lead=" ",
)
FORMATS["internlm_open_end"] = Format(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ("<s>", "</s>", "<|im_start|>", "<|im_end|>"),
    "</s>",
    f"{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n",
    "<|im_end|>",
    frozenset({"</s>"}),
)
