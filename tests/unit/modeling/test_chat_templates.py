"""Prompts and reply ends of real chat models, with the control tokens of their tokenizers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from template_toys import FAMILIES, family_tokenizer, real_template, save_family

from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat, chat_of

HI = chat_of(("user", "Hi"))
SYSTEM = chat_of(("system", "Be brief."), ("user", "Hi"))
TURNS = chat_of(("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"))

LLAMA_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LLAMA_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
LLAMA_HEADS = {
    role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant")
}
OSS_CHANNELS = (
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
OSS_IDENTITY = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
)


def oss_head(effort: str) -> str:
    return (
        f"<|start|>system<|message|>{OSS_IDENTITY}Current date: TODAY\n\nReasoning: {effort}\n\n"
        f"{OSS_CHANNELS}<|end|>"
    )


PROMPTS: dict[tuple[str, bool], tuple[str, str, str]] = {
    ("gemma", False): (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    ),
    ("phi", False): (
        "<|user|>\nHi<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
        "<|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n",
    ),
    ("mistral", False): (
        "<s>[INST]Hi[/INST]",
        "<s>[INST]Be brief.\n\nHi[/INST]",
        "<s>[INST]Hi[/INST]Yes?</s>[INST]Bye[/INST]",
    ),
    ("llama", False): (
        f"{LLAMA_SYSTEM}{LLAMA_DATES}<|eot_id|>{LLAMA_HEADS['user']}Hi<|eot_id|>"
        f"{LLAMA_HEADS['assistant']}",
        f"{LLAMA_SYSTEM}{LLAMA_DATES}Be brief.<|eot_id|>{LLAMA_HEADS['user']}Hi<|eot_id|>"
        f"{LLAMA_HEADS['assistant']}",
        f"{LLAMA_SYSTEM}{LLAMA_DATES}<|eot_id|>{LLAMA_HEADS['user']}Hi<|eot_id|>"
        f"{LLAMA_HEADS['assistant']}Yes?<|eot_id|>{LLAMA_HEADS['user']}Bye<|eot_id|>"
        f"{LLAMA_HEADS['assistant']}",
    ),
    ("qwen2", False): (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    ),
    ("qwen3", False): (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    ("qwen3", True): (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    ),
    ("r1", False): (
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n\n</think>\n\n",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>\n\n</think>\n\n",
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Yes?<｜end▁of▁sentence｜><｜User｜>Bye"
        "<｜Assistant｜><think>\n\n</think>\n\n",
    ),
    ("r1", True): (
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>\n",
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Yes?<｜end▁of▁sentence｜><｜User｜>Bye"
        "<｜Assistant｜><think>\n",
    ),
    ("gpt_oss", False): (
        f"{oss_head('low')}<|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        f"{oss_head('low')}<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>",
        f"{oss_head('low')}<|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes?<|end|>"
        "<|start|>user<|message|>Bye<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    ("gpt_oss", True): (
        f"{oss_head('medium')}<|start|>user<|message|>Hi<|end|><|start|>assistant",
        f"{oss_head('medium')}<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant",
        f"{oss_head('medium')}<|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes?<|end|>"
        "<|start|>user<|message|>Bye<|end|><|start|>assistant",
    ),
}
"""(family, whether it thinks) -> the prompts of HI, SYSTEM and TURNS. Models that never think have
the same prompts in both ways."""
ENDS = {
    "gemma": ("<end_of_turn>", {"<eos>"}),
    "phi": ("<|end|>", {"<|endoftext|>", "<|assistant|>"}),
    "mistral": ("</s>", set()),
    "llama": ("<|eot_id|>", {"<|end_of_text|>", "<|eom_id|>"}),
    "qwen2": ("<|im_end|>", {"<|endoftext|>"}),
    "qwen3": ("<|im_end|>", {"<|endoftext|>"}),
    "r1": ("<｜end▁of▁sentence｜>", set()),
    "gpt_oss": ("<|return|>", {"<|endoftext|>", "<|call|>", "<|end|>"}),
}
"""The token that ends a reply, and others at which sampling stops."""


def renderer_of(name: str, folder: Path, *, thinks: bool = False) -> Renderer:
    return load_renderer(save_family(FAMILIES[name], real_template(name), folder), thinks=thinks)


def prompt_text(renderer: Renderer, chat: Chat) -> str:
    """A prompt as text, with the date of a template that writes one replaced."""
    text = renderer.tokenizer.decode(renderer.prompt_ids(chat))
    return re.sub(r"(?<=Current date: )\d{4}-\d\d-\d\d", "TODAY", text)


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_prompts(name: str, thinks: bool, tmp_path: Path) -> None:
    """A turn, a system turn, and several turns; BOS once although the tokenizer adds it, too."""
    renderer = renderer_of(name, tmp_path, thinks=thinks)
    expected = PROMPTS.get((name, thinks), PROMPTS[name, False])
    assert tuple(prompt_text(renderer, chat) for chat in (HI, SYSTEM, TURNS)) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_ends_of_replies(name: str, tmp_path: Path) -> None:
    renderer = renderer_of(name, tmp_path)
    end, others = ENDS[name]
    ids = renderer.response_ids("Yes.")
    assert renderer.tokenizer.decode(ids) == f"Yes.{end}"
    assert ids[-1] == renderer.end_token_id
    stops = {renderer.tokenizer.decode([token]) for token in renderer.stop_ids}
    assert stops == {end} | others
    assert renderer.text(ids) == "Yes."


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_texts_are_text(name: str, tmp_path: Path) -> None:
    """Of messages, prefills and replies: special ones and others, such as <think>."""
    renderer = renderer_of(name, tmp_path)
    hostile = "".join((*FAMILIES[name].special, *FAMILIES[name].added))
    plain, attacked = (
        renderer.prompt_ids(chat_of(("user", text)), prefill=text) for text in ("x", hostile)
    )
    assert [token for token in attacked if token > 255] == [token for token in plain if token > 255]
    assert renderer.tokenizer.decode(attacked).count(hostile) == 2
    assert max(renderer.text_ids(hostile)) < 256


def test_today_is_in_the_prompt_of_a_template_that_asks(tmp_path: Path) -> None:
    renderer = renderer_of("gpt_oss", tmp_path)
    text = renderer.tokenizer.decode(renderer.prompt_ids(HI))
    assert f"Current date: {datetime.now(UTC).year}" in text


def test_what_is_rendered_otherwise_is_another_model(tmp_path: Path) -> None:
    """A part of the fingerprint: empty where nothing but eos ends a reply."""
    renderings = {name: renderer_of(name, tmp_path / name).rendering for name in FAMILIES}
    assert renderings["mistral"] == ""
    assert len(set(renderings.values())) == len(FAMILIES)
    thinking = renderer_of("mistral", tmp_path / "thinking", thinks=True)
    assert thinking.rendering != ""


def test_thoughts_are_closed_where_a_template_cuts_them(tmp_path: Path) -> None:
    """It neither opens a thought nor has a switch, but it knows them: it cuts those of replies."""
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    folder = save_family(FAMILIES["phi"], template, tmp_path)
    off, on = load_renderer(folder), load_renderer(folder, thinks=True)
    assert prompt_text(off, HI) == "user: Hi<|end|>assistant: <think>\n\n</think>\n\n"
    assert prompt_text(on, HI) == "user: Hi<|end|>assistant: "


def test_a_switch_that_is_off_by_default_is_turned_on(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: "
        "{{ '<think>' if deep_thinking else '</think>' }}{% endif %}"
    )
    folder = save_family(FAMILIES["phi"], template, tmp_path)
    for thinks, tag in ((False, "</think>"), (True, "<think>")):
        text = prompt_text(load_renderer(folder, thinks=thinks), HI)
        assert text == f"user: Hi<|end|>assistant: {tag}"


def test_a_template_without_an_end_token_ends_with_eos(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    tokenizer = family_tokenizer(FAMILIES["phi"], template)
    renderer = Renderer(tokenizer)
    assert renderer.end_token_id == tokenizer.eos_token_id
    assert renderer.stop_ids == {tokenizer.eos_token_id}
