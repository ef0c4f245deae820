"""Chat formats of model families that think, as in `template_formats.py`."""

from __future__ import annotations

from template_formats import IM, SPLIT_SYSTEM, Format, M

THINK_TAGS = ("<think>", "</think>")
R = "<|START_OF_TURN_TOKEN|>"
E = "<|END_OF_TURN_TOKEN|>"
DS = "<｜begin▁of▁sentence｜>"
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
G = "<|start_of_role|>{}<|end_of_role|>"
P = "<|im_start|>{}<|im_sep|>"

THINKING_FORMATS: dict[str, Format] = {}
THINKING_FORMATS["magistral"] = Format(
    "{{ bos_token }}"
    + SPLIT_SYSTEM
    + "[SYSTEM_PROMPT]{{ 'Draft in this format: [THINK]Your thoughts[/THINK]Your reply' "
    "if system is none else system }}[/SYSTEM_PROMPT]"
    "{%- for m in loop_messages %}{%- if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{%- elif m['role'] == 'assistant' %}{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}"
    "{% for block in m['content'] %}{% if block['type'] == 'thinking' %}"
    "{{ '[THINK]' + block['thinking'] + '[/THINK]' }}{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ eos_token }}{%- endif %}{%- endfor %}",
    (
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[THINK]",
        "[/THINK]",
    ),
    "</s>",
    "<s>[SYSTEM_PROMPT]Draft in this format: [THINK]Your thoughts[/THINK]Your reply"
    "[/SYSTEM_PROMPT][INST]Hi[/INST][THINK][/THINK]",
    "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST][THINK][/THINK]",
    "<s>[SYSTEM_PROMPT]Draft in this format: [THINK]Your thoughts[/THINK]Your reply"
    "[/SYSTEM_PROMPT][INST]Hi[/INST]Yes?</s>[INST]Bye[/INST][THINK][/THINK]",
    "</s>",
    bos="<s>",
    thinking="<s>[SYSTEM_PROMPT]Draft in this format: [THINK]Your thoughts[/THINK]Your reply"
    "[/SYSTEM_PROMPT][INST]Hi[/INST]",
)
THINKING_FORMATS["cohere2"] = Format(
    "{{ bos_token }}"
    + SPLIT_SYSTEM
    + "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{% if tools %}# Tools\n{% endif %}# Default"
    "{{ '' if system is none else '\\n\\n# Developer\\n' + system }}<|END_OF_TURN_TOKEN|>"
    "{% for m in loop_messages %}<|START_OF_TURN_TOKEN|>"
    "{% if m.role|lower == 'user' %}<|USER_TOKEN|>{{ m.content }}"
    "{% elif m.role|lower == 'system' %}<|SYSTEM_TOKEN|>{{ m.content }}"
    "{% else %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    (
        "<BOS_TOKEN>",
        E,
        R,
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
    ),
    E,
    f"<BOS_TOKEN>{R}<|SYSTEM_TOKEN|># Default{E}{R}<|USER_TOKEN|>Hi{E}{R}<|CHATBOT_TOKEN|>"
    "<|START_RESPONSE|>",
    f"<BOS_TOKEN>{R}<|SYSTEM_TOKEN|># Default\n\n# Developer\nBe "
    f"brief.{E}{R}<|USER_TOKEN|>Hi{E}"
    f"{R}<|CHATBOT_TOKEN|><|START_RESPONSE|>",
    f"<BOS_TOKEN>{R}<|SYSTEM_TOKEN|># Default{E}{R}<|USER_TOKEN|>Hi{E}{R}<|CHATBOT_TOKEN|>"
    f"<|START_RESPONSE|>Yes?<|END_RESPONSE|>{E}{R}<|USER_TOKEN|>Bye{E}{R}<|CHATBOT_TOKEN|>"
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    frozenset({E}),
    bos="<BOS_TOKEN>",
    thinking=f"<BOS_TOKEN>{R}<|SYSTEM_TOKEN|># Default{E}{R}<|USER_TOKEN|>Hi{E}"
    f"{R}<|CHATBOT_TOKEN|>",
)
THINKING_FORMATS["deepseek_v3_1"] = Format(
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ bos_token }}"
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = ns.system + m['content'] %}{% endif %}{% endfor %}{{ ns.system }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜></think>' }}"
    "{{ m['content'].split('</think>', 1)[1] if '</think>' in m['content'] else m['content'] }}"
    "{{ '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}",
    (DS, "<｜end▁of▁sentence｜>"),
    "<｜end▁of▁sentence｜>",
    f"{DS}<｜User｜>Hi<｜Assistant｜></think>",
    f"{DS}Be brief.<｜User｜>Hi<｜Assistant｜></think>",
    f"{DS}<｜User｜>Hi<｜Assistant｜></think>Yes?<｜end▁of▁sentence｜><｜User｜>Bye"
    "<｜Assistant｜></think>",
    "<｜end▁of▁sentence｜>",
    added=("<｜User｜>", "<｜Assistant｜>", *THINK_TAGS),
    bos=DS,
    thinking=f"{DS}<｜User｜>Hi<｜Assistant｜><think>",
)
THINKING_FORMATS["qwen3_thinking_2507"] = Format(
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content %}"
    "{%- set reasoning_content = '' %}{%- if m.reasoning_content is string %}"
    "{%- set reasoning_content = m.reasoning_content %}{%- elif '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].split('<think>')[-1] %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' }}{%- if loop.last %}"
    "{{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- content + '<|im_end|>\\n' }}{%- else %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "<|im_end|>",
    f"{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n<think>\n\n</think>\n\n",
    "<|im_end|>",
    frozenset({"<|endoftext|>"}),
    added=THINK_TAGS,
    config_eos=("<|im_end|>", "<|endoftext|>"),
    thinking=f"{IM}user\nHi{M}{IM}assistant\n<think>\n",
)
THINKING_FORMATS["glm4_5"] = Format(
    "[gMASK]<sop>{%- for m in messages %}{% if m.role == 'system' %}<|system|>\n{{ m.content }}"
    "{% elif m.role == 'user' %}<|user|>\n{{ m.content }}"
    "{{ '/nothink' if enable_thinking is defined and not enable_thinking "
    "and not m.content.endswith('/nothink') else '' }}"
    "{% else %}<|assistant|>{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1].strip() %}"
    "{% endif %}{{ '\\n<think></think>' }}{{ '\\n' + content.strip() }}{% endif %}{%- endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{{ '\\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}"
    "{% endif %}",
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
    "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>",
    "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi/nothink<|assistant|>\n<think></think>",
    "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>\nYes?<|user|>\nBye/nothink"
    "<|assistant|>\n<think></think>",
    "<|user|>",
    frozenset({"<|endoftext|>", "<|observation|>"}),
    added=THINK_TAGS,
    config_eos=("<|endoftext|>", "<|user|>", "<|observation|>"),
    thinking="[gMASK]<sop><|user|>\nHi<|assistant|>",
    lead="\n",
)
THINKING_FORMATS["smollm3"] = Format(
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set reasoning_mode = '/think' if enable_thinking else '/no_think' -%}"
    "{%- set custom = '' -%}"
    "{%- if messages[0].role == 'system' -%}{%- set text = messages[0].content -%}"
    "{%- if '/no_think' in text -%}{%- set reasoning_mode = '/no_think' -%}"
    "{%- elif '/think' in text -%}{%- set reasoning_mode = '/think' -%}{%- endif -%}"
    "{%- set custom = text.replace('/no_think', '').replace('/think', '').rstrip() -%}"
    "{%- endif -%}"
    "{{- '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' + reasoning_mode -}}"
    "{{- '\\n\\n## Custom Instructions\\n\\n' + (custom or 'Help.') + '<|im_end|>\\n' -}}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'assistant' -%}{% generation %}{%- if reasoning_mode == '/think' -%}"
    "{{- '<|im_start|>assistant\\n' + m.content.lstrip('\\n') + '<|im_end|>\\n' -}}{%- else -%}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + m.content.lstrip('\\n') -}}"
    "{{- '<|im_end|>\\n' -}}{%- endif -%}{% endgeneration %}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{%- if reasoning_mode == '/think' -%}"
    "{{- '<|im_start|>assistant\\n' -}}{%- else -%}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' -}}{%- endif -%}{%- endif -%}",
    CHATML,
    "<|im_end|>",
    f"{IM}system\n## Metadata\n\nReasoning Mode: /no_think\n\n## Custom "
    f"Instructions\n\nHelp.{M}"
    f"{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n",
    f"{IM}system\n## Metadata\n\nReasoning Mode: /no_think\n\n## Custom "
    f"Instructions\n\nBe brief.{M}"
    f"{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n",
    f"{IM}system\n## Metadata\n\nReasoning Mode: /no_think\n\n## Custom "
    f"Instructions\n\nHelp.{M}"
    f"{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\nYes?{M}{IM}user\nBye{M}"
    f"{IM}assistant\n<think>\n\n</think>\n",
    "<|im_end|>",
    added=THINK_TAGS,
    thinking=f"{IM}system\n## Metadata\n\nReasoning Mode: /think\n\n## Custom "
    f"Instructions\n\nHelp.{M}"
    f"{IM}user\nHi{M}{IM}assistant\n",
)
THINKING_FORMATS["granite"] = Format(
    SPLIT_SYSTEM
    + "{% set default = 'You are Granite.' %}{% if thinking %}{% set default = default + "
    "' Respond with your thoughts in <think></think> and the reply in "
    "<response></response>.' %}"
    "{% endif %}<|start_of_role|>system<|end_of_role|>{{ system or default }}<|end_of_text|>\n"
    "{%- for m in loop_messages %}\n"
    "{{ '\\n<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + "
    "'<|end_of_text|>' }}"
    "{%- if loop.last and add_generation_prompt %}"
    "{{ '\\n<|start_of_role|>assistant' + ('<|x|>' if controls else '') + '<|end_of_role|>' }}"
    "{%- endif %}{%- endfor %}",
    ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
    "<|end_of_text|>",
    f"{G.format('system')}You are Granite.<|end_of_text|>"
    f"\n{G.format('user')}Hi<|end_of_text|>\n"
    f"{G.format('assistant')}",
    f"{G.format('system')}Be brief.<|end_of_text|>\n{G.format('user')}Hi<|end_of_text|>\n"
    f"{G.format('assistant')}",
    f"{G.format('system')}You are Granite.<|end_of_text|>"
    f"\n{G.format('user')}Hi<|end_of_text|>\n"
    f"{G.format('assistant')}Yes?<|end_of_text|>\n{G.format('user')}Bye<|end_of_text|>\n"
    f"{G.format('assistant')}",
    "<|end_of_text|>",
    thinking=f"{G.format('system')}You are Granite. Respond with your thoughts in "
    "<think></think> and the reply in <response></response>.<|end_of_text|>\n"
    f"{G.format('user')}Hi<|end_of_text|>\n{G.format('assistant')}",
)
THINKING_FORMATS["kimi_thinking"] = Format(
    "{%- for m in messages -%}"
    "{%- if loop.first and m['role'] != 'system' "
    "-%}<|im_system|>system<|im_middle|>You are Kimi."
    "<|im_end|>{%- endif -%}"
    "{%- if m['role'] == 'user' -%}<|im_user|>user<|im_middle|>"
    "{%- elif m['role'] == 'assistant' -%}<|im_assistant|>assistant<|im_middle|>"
    "<think>{{ m.get('reasoning_content', '') }}</think>"
    "{%- else -%}<|im_system|>system<|im_middle|>{%- endif -%}"
    "{%- if m['content'] is string -%}{{ m['content'] }}{%- else -%}"
    "{%- for c in m['content'] -%}"
    "{{ c['text'] }}{%- endfor -%}{%- endif -%}<|im_end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}",
    (
        "[BOS]",
        "[EOS]",
        "<|im_end|>",
        "<|im_user|>",
        "<|im_assistant|>",
        "<|im_system|>",
        "<|im_middle|>",
    ),
    "[EOS]",
    "<|im_system|>system<|im_middle|>You are Kimi.<|im_end|><|im_user|>user<|im_middle|>Hi"
    "<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>",
    "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>Hi"
    "<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>",
    "<|im_system|>system<|im_middle|>You are Kimi.<|im_end|><|im_user|>user<|im_middle|>Hi"
    "<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>Yes?<|im_end|>"
    "<|im_user|>user<|im_middle|>Bye<|im_end|><|im_assistant|>assistant<|im_middle|>"
    "<think></think>",
    "<|im_end|>",
    frozenset({"[EOS]"}),
    added=THINK_TAGS,
    config_eos=("<|im_end|>",),
    thinking="<|im_system|>system<|im_middle|>You are "
    "Kimi.<|im_end|><|im_user|>user<|im_middle|>Hi"
    "<|im_end|><|im_assistant|>assistant<|im_middle|>",
)
THINKING_FORMATS["minimax_m2"] = Format(
    SPLIT_SYSTEM + "{{- ']~!b[]~b]system\\n' + (system or 'You are MiniMax.') + '[e~[\\n' }}"
    "{%- set ns = namespace(last=-1) %}{%- for m in loop_messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in loop_messages %}{%- if m.role == 'assistant' %}{{- ']~b]ai\\n' }}"
    "{%- if m.reasoning_content and loop.index0 > ns.last %}"
    "{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- m.content + '[e~[\\n' }}{%- else %}"
    "{{- ']~b]user\\n' + m.content + '[e~[\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- ']~b]ai\\n<think>\\n' }}{%- endif %}",
    ("]~!b[", "]~b]", "[e~["),
    "[e~[",
    "]~!b[]~b]system\nYou are MiniMax.[e~[\n]~b]user\nHi[e~[\n]~b]ai\n<think>\n\n</think>\n\n",
    "]~!b[]~b]system\nBe brief.[e~[\n]~b]user\nHi[e~[\n]~b]ai\n<think>\n\n</think>\n\n",
    "]~!b[]~b]system\nYou are MiniMax.[e~[\n]~b]user\nHi[e~[\n]~b]ai\nYes?[e~[\n"
    "]~b]user\nBye[e~[\n"
    "]~b]ai\n<think>\n\n</think>\n\n",
    "[e~[",
    added=THINK_TAGS,
    bos="]~!b[",
    thinking="]~!b[]~b]system\nYou are MiniMax.[e~[\n]~b]user\nHi[e~[\n]~b]ai\n<think>\n",
)
THINKING_FORMATS["phi4_reasoning"] = Format(
    "<|im_start|>system<|im_sep|>{% if messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] + ' ' }}{% endif %}Use the format <think> {Thoughts} "
    "</think> {Reply}"
    "<|im_end|>{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|>' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|im_start|>assistant<|im_sep|>' }}"
    "{{ m['content'].split('</think>')[-1].strip() + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    (*CHATML, "<|im_sep|>"),
    "<|im_end|>",
    f"{P.format('system')}Use the format <think> {{Thoughts}} </think> {{Reply}}<|im_end|>"
    f"{P.format('user')}Hi<|im_end|>{P.format('assistant')}<think>\n\n</think>\n\n",
    f"{P.format('system')}Be brief. Use the format <think> {{Thoughts}} </think> "
    f"{{Reply}}<|im_end|>"
    f"{P.format('user')}Hi<|im_end|>{P.format('assistant')}<think>\n\n</think>\n\n",
    f"{P.format('system')}Use the format <think> {{Thoughts}} </think> {{Reply}}<|im_end|>"
    f"{P.format('user')}Hi<|im_end|>{P.format('assistant')}Yes?<|im_end|>{P.format('user')}Bye"
    f"<|im_end|>{P.format('assistant')}<think>\n\n</think>\n\n",
    "<|im_end|>",
    added=THINK_TAGS,
    thinking=f"{P.format('system')}Use the format <think> {{Thoughts}} </think> "
    f"{{Reply}}<|im_end|>"
    f"{P.format('user')}Hi<|im_end|>{P.format('assistant')}",
)
THINKING_FORMATS["exaone_deep"] = Format(
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
    "{% set content = m['content'] %}{% if '</thought>' in content %}"
    "{% set content = content.split('</thought>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '[|' + m['role'] + '|]' + content }}{% if m['role'] == 'user' %}{{ '\\n' }}"
    "{% else %}{{ '[|endofturn|]\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]<thought>\\n' }}{% endif %}",
    ("[BOS]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]"),
    "[|endofturn|]",
    "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]<thought>\n\n</thought>\n\n",
    "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]<thought>\n\n</thought>\n\n",
    "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|]Bye\n"
    "[|assistant|]<thought>\n\n</thought>\n\n",
    "[|endofturn|]",
    thinking="[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]<thought>\n",
)
THINKING_FORMATS["seed_oss"] = Format(
    "{%- if thinking_budget is not defined %}{%- set thinking_budget = -1 %}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'system' or loop.first and "
    "thinking_budget == 0 %}"
    "{{- '<seed:bos>' + 'system\\n' }}{%- if m.role == 'system' %}{{- m.content }}{%- endif %}"
    "{%- if thinking_budget == 0 %}{{- 'Your budget of thought is 0.' }}"
    "{%- elif thinking_budget > 0 %}{{- 'Your budget of thought is ' + "
    "thinking_budget|string }}"
    "{%- endif %}{{- eos_token }}{%- endif %}"
    "{%- if m.role != 'system' %}{{- '<seed:bos>' + m.role + '\\n' + m.content + "
    "eos_token }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<seed:bos>' + 'assistant\\n' }}"
    "{%- if thinking_budget == 0 %}"
    "{{- '<seed:think>\\n<seed:cot_budget_reflect>0.</seed:cot_budget_reflect>"
    "\\n</seed:think>' }}"
    "{%- endif %}{%- endif %}",
    ("<seed:bos>", "<seed:eos>"),
    "<seed:eos>",
    "<seed:bos>system\nYour budget of thought is 0.<seed:eos><seed:bos>user\nHi<seed:eos>"
    "<seed:bos>assistant\n<seed:think>\n<seed:cot_budget_reflect>0.</seed:cot_budget_reflect>\n"
    "</seed:think>",
    "<seed:bos>system\nBe brief.Your budget of thought is "
    "0.<seed:eos><seed:bos>user\nHi<seed:eos>"
    "<seed:bos>assistant\n<seed:think>\n<seed:cot_budget_reflect>0.</seed:cot_budget_reflect>\n"
    "</seed:think>",
    "<seed:bos>system\nYour budget of thought is 0.<seed:eos><seed:bos>user\nHi<seed:eos>"
    "<seed:bos>assistant\nYes?<seed:eos><seed:bos>user\nBye<seed:eos>"
    "<seed:bos>assistant\n<seed:think>\n<seed:cot_budget_reflect>0.</seed:cot_budget_reflect>\n"
    "</seed:think>",
    "<seed:eos>",
    added=("<seed:think>", "</seed:think>"),
    thinking="<seed:bos>user\nHi<seed:eos><seed:bos>assistant\n",
)
THINKING_FORMATS["hunyuan"] = Format(
    SPLIT_SYSTEM
    + "{{ '<｜hy_begin｜>' }}{% if system is not none %}{{ system + '<｜hy_sep｜>' }}{% endif %}"
    "{% for m in loop_messages %}{% if m['role'] == 'user' %}{{ '<｜hy_User｜>' + m['content'] }}"
    "{% else %}{% set content = m['content'] %}{% if '<answer>' in content %}"
    "{% set content = content.split('<answer>')[-1].replace('</answer>', '') %}{% endif %}"
    "{{ '<｜hy_Assistant｜>' + content + '<｜hy_end｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜hy_Assistant｜>' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n' }}"
    "{% endif %}{% endif %}",
    ("<｜hy_begin｜>", "<｜hy_sep｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_end｜>"),
    "<｜hy_end｜>",
    "<｜hy_begin｜><｜hy_User｜>Hi<｜hy_Assistant｜><think>\n\n</think>\n",
    "<｜hy_begin｜>Be brief.<｜hy_sep｜><｜hy_User｜>Hi<｜hy_Assistant｜><think>\n\n</think>\n",
    "<｜hy_begin｜><｜hy_User｜>Hi<｜hy_Assistant｜>Yes?<｜hy_end｜><｜hy_User｜>Bye<｜hy_Assistant｜>"
    "<think>\n\n</think>\n",
    "<｜hy_end｜>",
    bos="<｜hy_begin｜>",
    thinking="<｜hy_begin｜><｜hy_User｜>Hi<｜hy_Assistant｜>",
)
THINKING_FORMATS["nemotron_nano"] = Format(
    "{%- set ns = namespace(think=true) %}{%- for m in messages %}"
    "{%- if '/no_think' in m.content %}{%- set ns.think = false %}"
    "{%- elif '/think' in m.content %}{%- set ns.think = true %}{%- endif %}{%- endfor %}"
    "{{- '<s>[S10]System\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content }}"
    "{%- endif %}{{- '\\n' }}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{{- '[S11]User\\n' + m.content + '\\n' }}{%- elif m.role == 'assistant' %}"
    "{{- '[S11]Assistant\\n' + m.content.split('</think>')[-1].strip() + "
    "'\\n[S12]\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '[S11]Assistant\\n' }}"
    "{{- '<think>\\n' if ns.think else '<think></think>' }}{%- endif %}",
    ("<s>", "</s>", "[S10]", "[S11]", "[S12]"),
    "[S12]",
    "<s>[S10]System\n\n[S11]User\nHi\n[S11]Assistant\n<think>\n\n</think>\n\n",
    "<s>[S10]System\nBe brief.\n[S11]User\nHi\n[S11]Assistant\n<think>\n\n</think>\n\n",
    "<s>[S10]System\n\n[S11]User\nHi\n[S11]Assistant\nYes?\n[S12]\n[S11]User\nBy"
    "e\n[S11]Assistant\n"
    "<think>\n\n</think>\n\n",
    "[S12]",
    bos="<s>",
    thinking="<s>[S10]System\n\n[S11]User\nHi\n[S11]Assistant\n<think>\n",
)
THINKING_FORMATS["qwen3"] = Format(
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' }}{%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{{- content.lstrip('\\n') + '<|im_end|>\\n' }}{%- else %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}",
    CHATML,
    "<|im_end|>",
    f"{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n\n",
    f"{IM}system\nBe brief.{M}{IM}user\nHi{M}{IM}assistant\n<think>\n\n</think>\n\n",
    f"{IM}user\nHi{M}{IM}assistant\nYes?{M}{IM}user\nBye{M}{IM}assistant\n<think>\n\n</think>\n\n",
    "<|im_end|>",
    frozenset({"<|endoftext|>"}),
    added=THINK_TAGS,
    config_eos=("<|im_end|>", "<|endoftext|>"),
    thinking=f"{IM}user\nHi{M}{IM}assistant\n",
)
OSS = "<|start|>system<|message|>Reasoning: {}<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>"
THINKING_FORMATS["harmony"] = Format(
    "{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}"
    "{%- for m in messages %}{%- if m.role == 'system' %}"
    "{{- '<|start|>developer<|message|># Instructions\\n\\n' + m.content + '<|end|>' }}"
    "{%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}"
    "{%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}",
    (
        "<|startoftext|>",
        "<|endoftext|>",
        "<|return|>",
        "<|channel|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|call|>",
    ),
    "<|return|>",
    f"{OSS.format('low')}<|start|>user<|message|>Hi<|end|>{FINAL}",
    f"{OSS.format('low')}<|start|>developer<|message|># Instructions\n\nBe brief.<|end|>"
    f"<|start|>user<|message|>Hi<|end|>{FINAL}",
    f"{OSS.format('low')}<|start|>user<|message|>Hi<|end|>{FINAL}Yes?<|end|>"
    f"<|start|>user<|message|>Bye<|end|>{FINAL}",
    "<|return|>",
    frozenset({"<|endoftext|>", "<|call|>", "<|end|>"}),
    bos="<|startoftext|>",
    config_eos=("<|return|>", "<|endoftext|>", "<|call|>"),
    thinking=f"{OSS.format('medium')}<|start|>user<|message|>Hi<|end|><|start|>assistant",
)
