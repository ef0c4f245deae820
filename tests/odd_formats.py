"""More chat formats, as in `template_formats.py`: more families, and templates with odd needs."""

from __future__ import annotations

from template_formats import ALTERNATE, IM, L3, SPLIT_SYSTEM, Format, M

S = ("<unk>", "<s>", "</s>")
R, E = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
H4 = "<|header_start|>{}<|header_end|>\n\n"
TULU = "<|{}|>\n"
LOOP = ALTERNATE.replace("in messages", "in loop_messages")

ODD_FORMATS: dict[str, Format] = {}
ODD_FORMATS["mixtral"] = Format(
    SPLIT_SYSTEM + "{{ bos_token }}" + LOOP + "{% for m in loop_messages %}"
    "{% if m['role'] == 'user' %}{% if loop.first and system is not none %}"
    "{{ ' [INST] ' + system + '\\n\\n' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}"
    "{% endfor %}",
    S,
    "</s>",
    "<s> [INST] Hi [/INST]",
    "<s> [INST] Be brief.\n\nHi [/INST]",
    "<s> [INST] Hi [/INST] Yes?</s> [INST] Bye [/INST]",
    "</s>",
    lead=" ",
    bos="<s>",
)
ODD_FORMATS["mistral_v3"] = Format(
    SPLIT_SYSTEM + "{{ bos_token }}" + LOOP + "{% for m in loop_messages %}"
    "{% if m['role'] == 'user' %}{% if loop.last and system is not none %}"
    "{{ '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content']|trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles, please') }}{% endif %}"
    "{% endfor %}",
    (*S, "[INST]", "[/INST]"),
    "</s>",
    "<s>[INST] Hi[/INST]",
    "<s>[INST] Be brief.\n\nHi[/INST]",
    "<s>[INST] Hi[/INST] Yes?</s>[INST] Bye[/INST]",
    "</s>",
    lead=" ",
    bos="<s>",
)
ODD_FORMATS["command_r"] = Format(
    "{{ bos_token }}"
    + SPLIT_SYSTEM
    + "{% if system is not none %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system + "
    "'<|END_OF_TURN_TOKEN|>' }}{% endif %}"
    + LOOP
    + "{% for m in loop_messages %}{% if m['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'].strip() + "
    "'<|END_OF_TURN_TOKEN|>' }}{% elif m['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + m['content'].strip() + "
    "'<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    ("<BOS_TOKEN>", R, E, "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    E,
    f"<BOS_TOKEN>{R}<|USER_TOKEN|>Hi{E}{R}<|CHATBOT_TOKEN|>",
    f"<BOS_TOKEN>{R}<|SYSTEM_TOKEN|>Be brief.{E}{R}<|USER_TOKEN|>Hi{E}{R}<|CHATBOT_TOKEN|>",
    f"<BOS_TOKEN>{R}<|USER_TOKEN|>Hi{E}{R}<|CHATBOT_TOKEN|>Yes?{E}{R}<|USER_TOKEN|>Bye{E}"
    f"{R}<|CHATBOT_TOKEN|>",
    E,
    bos="<BOS_TOKEN>",
)
ODD_FORMATS["llama4"] = Format(
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}"
    "{%- if messages[0]['content'] is string %}"
    "{%- set system_message = messages[0]['content']|trim %}{%- else %}"
    "{%- set system_message = messages[0]['content'][0]['text']|trim %}{%- endif %}"
    "{%- set messages = messages[1:] %}{{- '<|header_start|>system<|header_end|>\\n\\n' }}"
    "{{- system_message + '<|eot|>' }}{%- endif %}{%- for message in messages %}"
    "{{- '<|header_start|>' + message['role'] + '<|header_end|>\\n\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for content in message['content'] %}{{- content['text'] | trim }}{%- endfor %}"
    "{%- endif %}{{- '<|eot|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}{%- endif %}",
    (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|header_start|>",
        "<|header_end|>",
        "<|eom|>",
        "<|eot|>",
    ),
    "<|eot|>",
    f"<|begin_of_text|>{H4.format('user')}Hi<|eot|>{H4.format('assistant')}",
    f"<|begin_of_text|>{H4.format('system')}Be brief.<|eot|>{H4.format('user')}Hi<|eot|>"
    f"{H4.format('assistant')}",
    f"<|begin_of_text|>{H4.format('user')}Hi<|eot|>{H4.format('assistant')}Yes?<|eot|>"
    f"{H4.format('user')}Bye<|eot|>{H4.format('assistant')}",
    "<|eot|>",
    frozenset({"<|end_of_text|>", "<|eom|>"}),
    bos="<|begin_of_text|>",
    config_eos=("<|end_of_text|>", "<|eom|>", "<|eot|>"),
)
ODD_FORMATS["stablelm"] = Format(
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|endoftext|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"),
    "<|endoftext|>",
    "<|user|>\nHi<|endoftext|>\n<|assistant|>\n",
    "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nHi<|endoftext|>\n<|assistant|>\n",
    "<|user|>\nHi<|endoftext|>\n<|assistant|>\nYes?<|endoftext|>\n<|user|>\nBye<|endoftext|>\n"
    "<|assistant|>\n",
    "<|endoftext|>",
)
ODD_FORMATS["olmo2"] = Format(
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '<|system|>\\n' + m['content'] + '\\n' }}{% elif m['role'] == 'user' %}"
    "{{ '<|user|>\\n' + m['content'] + '\\n' }}{% elif m['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\\n'  + m['content'] + eos_token + '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n'  + m['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}",
    ("<|endoftext|>", "<|pad|>"),
    "<|endoftext|>",
    f"<|endoftext|>{TULU.format('user')}Hi\n{TULU.format('assistant')}",
    f"<|endoftext|>{TULU.format('system')}Be brief.\n{TULU.format('user')}Hi\n"
    f"{TULU.format('assistant')}",
    f"<|endoftext|>{TULU.format('user')}Hi\n{TULU.format('assistant')}Yes?<|endoftext|>\n"
    f"{TULU.format('user')}Bye\n{TULU.format('assistant')}",
    "<|endoftext|>",
    bos="<|endoftext|>",
)
ODD_FORMATS["falcon3"] = Format(
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|system|>\\n' + m['content'] + "
    "'\\n' }}{% elif m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + '\\n' }}"
    "{% elif m['role'] == 'assistant' %}{% if not loop.last %}"
    "{{ '<|assistant|>\\n' + m['content'] + eos_token + '\\n' }}{% else %}"
    "{{ '<|assistant|>\\n' + m['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}",
    ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"),
    "<|endoftext|>",
    "<|user|>\nHi\n<|assistant|>\n",
    "<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\n",
    "<|user|>\nHi\n<|assistant|>\nYes?<|endoftext|>\n<|user|>\nBye\n<|assistant|>\n",
    "<|endoftext|>",
)
ODD_FORMATS["nemotron_llama"] = Format(
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = 'detailed thinking on' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system_message + '<|eot_id|>' }}"
    "{%- for m in messages %}{%- if m['role'] == 'assistant' and '</think>' in m['content'] %}"
    "{%- set content = m['content'].split('</think>')[-1].lstrip() %}{%- else %}"
    "{%- set content = m['content'] %}{%- endif %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + content | trim + "
    "'<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
    f"<|begin_of_text|>{L3.format('system')}detailed thinking on<|eot_id|>{L3.format('user')}Hi"
    f"<|eot_id|>{L3.format('assistant')}<think>\n\n</think>\n\n",
    f"<|begin_of_text|>{L3.format('system')}Be brief.<|eot_id|>{L3.format('user')}Hi<|eot_id|>"
    f"{L3.format('assistant')}<think>\n\n</think>\n\n",
    f"<|begin_of_text|>{L3.format('system')}detailed thinking on<|eot_id|>{L3.format('user')}Hi"
    f"<|eot_id|>{L3.format('assistant')}Yes?<|eot_id|>{L3.format('user')}Bye<|eot_id|>"
    f"{L3.format('assistant')}<think>\n\n</think>\n\n",
    "<|eot_id|>",
    bos="<|begin_of_text|>",
    thinking=f"<|begin_of_text|>{L3.format('system')}detailed thinking on<|eot_id|>"
    f"{L3.format('user')}Hi<|eot_id|>{L3.format('assistant')}",
)
ODD_FORMATS["hunyuan"] = Format(
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ m['content'] + '<|extra_4|>' }}{% elif m['role'] == 'user' %}"
    "{{ '<|user|>' + m['content'] }}{% else %}{% set content = m['content'] %}"
    "{% if '<answer>' in content %}"
    "{% set content = content.split('<answer>')[-1].split('</answer>')[0].strip() %}{% endif %}"
    "{{ '<|assistant|>' + content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}",
    ("<|startoftext|>", "<|eos|>", "<|extra_4|>", "<|user|>", "<|assistant|>"),
    "<|eos|>",
    "<|startoftext|><|user|>Hi<|assistant|><think>\n\n</think>\n",
    "<|startoftext|>Be brief.<|extra_4|><|user|>Hi<|assistant|><think>\n\n</think>\n",
    "<|startoftext|><|user|>Hi<|assistant|>Yes?<|eos|><|user|>Bye<|assistant|>"
    "<think>\n\n</think>\n",
    "<|eos|>",
    bos="<|startoftext|>",
    thinking="<|startoftext|><|user|>Hi<|assistant|>",
)
ODD_FORMATS["strict_system"] = Format(  # no empty system turn; texts are stripped
    "{% for m in messages %}{% if m['role'] == 'system' and not m['content'].strip() %}"
    "{{ raise_exception('The system message is empty') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'].strip() + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    CHATML,
    "<|im_end|>",
    f"{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n",
    "<|im_end|>",
)
ODD_FORMATS["needs_lists"] = Format(  # of tools and documents, also where there are none
    "{% if tools|length %}<|im_start|>tools{% endif %}{% for d in documents %}{{ d.text }}"
    "{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    CHATML,
    "<|endoftext|>",
    f"{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n",
    "<|im_end|>",
    frozenset({"<|endoftext|>"}),
)
ODD_FORMATS["ends_with_the_user"] = Format(  # a dialogue that ends with a reply is refused
    "{% if messages[-1]['role'] == 'assistant' %}"
    "{{ raise_exception('The last message must be from the user') }}{% endif %}"
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\\n' }}",
    CHATML,
    "<|endoftext|>",
    f"{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n",
    "<|im_end|>",
    frozenset({"<|endoftext|>"}),
)
