"""Thoughts of local models: within a budget, closed before a reply or an option, and kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_calls import user_chat
from template_toys import FAMILIES, save_family

from cai.errors import UnansweredError, UsageError
from cai.lm import Sample, open_lm
from cai.lm.local import LocalLM
from cai.modeling import generation
from cai.modeling.model_spec import Thinking, split_spec

TAGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model begins its thought itself."""
OPEN = TAGS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
    "{% endif %}<|message|>{{ m.content }}{{ '<|return|>' if loop.last and m.role == 'assistant' "
    "else '<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
TEMPLATES = {"tags": (TAGS, "qwen3"), "open": (OPEN, "qwen3"), "channels": (CHANNELS, "gpt_oss")}
HEADS = {
    "tags": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "open": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "channels": "<|start|>user<|message|>Hi<|end|><|start|>assistant",
}
FINAL = "<|channel|>final<|message|>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: save_family(FAMILIES[family], template, tmp_path_factory.mktemp(name), model=True)
        for name, (template, family) in TEMPLATES.items()
    }


def thinking_lm(folder: Path, tokens: int = 64) -> LocalLM:
    lm = open_lm(f"local:{folder}?thinking=on&thinking_tokens={tokens}")
    assert isinstance(lm, LocalLM)
    return lm


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A model that writes the given texts, one a call; the prompts of the calls, as text."""

    def install(lm: LocalLM, *texts: str) -> list[str]:
        prompts: list[str] = []
        remaining = list(texts)

        def generate(
            model: Any, rows: Sequence[list[int]], **settings: Any
        ) -> list[generation.Generation]:
            (row,) = rows
            prompts.append(lm.renderer.tokenizer.decode(row))
            ids: list[int] = []
            for token in lm.renderer.control_ids(remaining.pop(0)):
                ids.append(token)
                if token in settings["stop_ids"] or settings["stop_when"](0, ids):
                    return [generation.Generation(ids, True)]
                if len(ids) == settings["max_tokens"][0]:
                    break
            return [generation.Generation(ids, False)]

        monkeypatch.setattr(generation, "generate", generate)
        return prompts

    return install


def sample_hi(lm: LocalLM) -> Sample:
    return asyncio.run(lm.sample(user_chat("Hi"), max_tokens=30, temperature=1.0, seed=0))


@pytest.mark.parametrize(
    ("name", "written", "thought", "closed"),
    [
        ("tags", "<think>\nHmm.\n</think>", "Hmm.", "<think>\nHmm.\n</think>\n\n"),
        ("tags", "<think>\n" + "a" * 90, "a" * 60, "<think>\n" + "a" * 62 + "\n</think>\n\n"),
        ("tags", "<think>\nHmm.\n<|im_end|>", "Hmm.", "<think>\nHmm.\n</think>\n\n"),
        ("tags", "Yes.<|im_end|>", None, ""),
        ("open", "Hmm.</think>", "Hmm.", "Hmm.</think>\n\n"),
        ("open", "a" * 90, "a" * 64, "a" * 64 + "\n</think>\n\n"),
        ("channels", f"<|channel|>analysis<|message|>Hmm.<|end|><|start|>assistant{FINAL}",
         "Hmm.", f"<|channel|>analysis<|message|>Hmm.<|end|><|start|>assistant{FINAL}"),
        ("channels", "<|channel|>analysis<|message|>Hmm.<|return|>",
         "Hmm.", f"<|channel|>analysis<|message|>Hmm.<|end|><|start|>assistant{FINAL}"),
        ("channels", FINAL, None, FINAL),
    ],
)  # fmt: skip
def test_a_thought_is_closed_and_kept_apart(
    folders: dict[str, Path],
    scripted: Callable[..., list[str]],
    name: str,
    written: str,
    thought: str | None,
    closed: str,
) -> None:
    """The reply is sampled after the closed thought, with a limit of its own."""
    lm = thinking_lm(folders[name])
    end = lm.renderer.tokenizer.eos_token
    prompts = scripted(lm, written, f"Yes.{end}")
    sample = sample_hi(lm)
    if thought is not None and thought.startswith("a"):
        assert sample.thought is not None
        assert set(sample.thought) == {"a"}
    else:
        assert sample.thought == thought
    assert (sample.text, sample.finished) == ("Yes.", True)
    head = HEADS[name]
    if not thought or not thought.startswith("a"):
        assert prompts == [head, head + closed]
    else:
        assert prompts[1].startswith(head)
        assert prompts[1].endswith("a\n</think>\n\n")


def test_an_option_is_read_after_the_thought(
    folders: dict[str, Path], scripted: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = thinking_lm(folders["tags"])
    scripted(lm, "<think>\nHmm.\n</think>")
    read: list[str] = []

    def option_logprobs(model: Any, rows: Any, options: Any, **_: Any) -> list[list[float]]:
        read.extend(lm.renderer.tokenizer.decode(row) for row in rows)
        return [[-1.0, -2.0]]

    monkeypatch.setattr(generation, "option_logprobs", option_logprobs)
    call = lm.choice_logprobs(user_chat("Hi"), ("A", "B"), prefill="It is (")
    assert asyncio.run(call) == [-1.0, -2.0]
    assert read == [f"{HEADS['tags']}<think>\nHmm.\n</think>\n\nIt is ("]


def test_a_model_thinks_only_when_it_is_to(folders: dict[str, Path]) -> None:
    """Without scripts: its tokens are bounded, its fingerprint differs, and the budget counts."""
    folder = folders["open"]
    off, on = open_lm(f"local:{folder}?thinking=off"), thinking_lm(folder, 8)
    assert off.fingerprint == open_lm(f"local:{folder}").fingerprint
    assert len({off.fingerprint, on.fingerprint, thinking_lm(folder, 9).fingerprint}) == 3
    assert isinstance(off, LocalLM)
    prompt = off.renderer.tokenizer.decode(off.renderer.prompt_ids(user_chat("Hi")))
    assert prompt == f"{HEADS['open']}\n</think>\n\n"
    for lm, bound in ((off, 30), (on, 38)):
        sample = sample_hi(lm)
        assert 0 < sample.completion_tokens <= bound
    with pytest.raises(UnansweredError, match="with a thought of 5000"):
        sample_hi(thinking_lm(folder, 5000))


@pytest.mark.parametrize(
    ("spec", "name", "thinking"),
    [
        ("smollm2", "smollm2", Thinking()),
        ("local:a?b", "local:a?b", Thinking()),
        ("local:a/b?thinking=off", "local:a/b", Thinking("off")),
        ("http://h/v1?key=1#m?thinking=on", "http://h/v1?key=1#m", Thinking("on")),
        ("smollm2?thinking=on&thinking_tokens=9", "smollm2", Thinking("on", 9)),
    ],
)
def test_options_of_a_spec(spec: str, name: str, thinking: Thinking) -> None:
    assert split_spec(spec) == (name, thinking)
    if thinking.mode:
        assert split_spec(f"m{thinking.text}")[1] == thinking


@pytest.mark.parametrize(
    "options", ["thinking=yes", "thinkng=on", "thinking=on&thinking_tokens=0", "thinking_tokens=9"]
)
def test_options_that_are_wrong(options: str) -> None:
    with pytest.raises(UsageError, match=r"^model 'smollm2\?think"):
        open_lm(f"smollm2?{options}")
