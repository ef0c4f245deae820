"""Formats of many model families: prompts, ends of replies, system turns, thoughts, attacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odd_formats import ODD_FORMATS
from template_formats import FORMATS as PLAIN_FORMATS
from template_toys import save_family
from thinking_formats import THINKING_FORMATS

from cai.errors import BackendError
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat, chat_of

FORMATS = PLAIN_FORMATS | THINKING_FORMATS | ODD_FORMATS
HI = chat_of(("user", "Hi"))
SYSTEM = chat_of(("system", "Be brief."), ("user", "Hi"))
TURNS = chat_of(("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"))
LATER_SYSTEM = chat_of(
    *(("user", "Hi"), ("assistant", "Yes?"), ("system", "Now."), ("user", "Bye"))
)


def renderer_of(name: str, folder: Path, *, thinks: bool = False) -> Renderer:
    return load_renderer(
        save_family(FORMATS[name].family, FORMATS[name].template, folder), thinks=thinks
    )


def prompt_text(renderer: Renderer, chat: Chat) -> str:
    text: str = renderer.tokenizer.decode(renderer.prompt_ids(chat))
    return text


@pytest.mark.parametrize("name", FORMATS)
def test_prompts(name: str, tmp_path: Path) -> None:
    wanted, renderer = FORMATS[name], renderer_of(name, tmp_path)
    got = tuple(prompt_text(renderer, chat) for chat in (HI, SYSTEM, TURNS))
    assert got == (wanted.hi, wanted.system, wanted.turns)


@pytest.mark.parametrize("name", FORMATS)
def test_prompts_that_let_a_model_think(name: str, tmp_path: Path) -> None:
    wanted = FORMATS[name].thinking or FORMATS[name].hi
    assert prompt_text(renderer_of(name, tmp_path, thinks=True), HI) == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_ends_of_replies(name: str, tmp_path: Path) -> None:
    wanted, renderer = FORMATS[name], renderer_of(name, tmp_path)
    reply = renderer.tokenizer.decode(renderer.response_ids("Yes."))
    assert reply == f"{wanted.lead}Yes.{wanted.end}"
    stops = {renderer.tokenizer.decode([token]) for token in renderer.stop_ids}
    assert stops == {wanted.end} | wanted.stops
    assert renderer.text(renderer.response_ids("Yes.")) == "Yes."


@pytest.mark.parametrize("name", FORMATS)
def test_a_system_turn_in_the_middle_is_kept(name: str, tmp_path: Path) -> None:
    text = prompt_text(renderer_of(name, tmp_path), LATER_SYSTEM)
    positions = [text.index(part) for part in ("Hi", "Yes?", "Now.", "Bye")]
    assert positions == sorted(positions) or "Now." in text[: positions[0]]


@pytest.mark.parametrize("name", FORMATS)
def test_control_tokens_in_texts_are_text(name: str, tmp_path: Path) -> None:
    renderer = renderer_of(name, tmp_path)
    hostile = "".join((*FORMATS[name].special, *FORMATS[name].added))
    plain, attacked = (
        renderer.prompt_ids(chat_of(("user", text)), prefill=text) for text in ("x", hostile)
    )
    assert [token for token in attacked if token > 255] == [token for token in plain if token > 255]


def test_an_empty_system_turn_adds_nothing(tmp_path: Path) -> None:
    chat = chat_of(("system", ""), ("user", "Hi"))
    assert prompt_text(renderer_of("strict_system", tmp_path), chat) == FORMATS["strict_system"].hi


@pytest.mark.parametrize("name", ["hunyuan", "granite"])
def test_tags_around_the_reply_are_no_part_of_it(name: str, tmp_path: Path) -> None:
    """Also where the reply was cut, and after a thought."""
    renderer = renderer_of(name, tmp_path)
    tag = "answer" if name == "hunyuan" else "response"
    for text in (f"<{tag}>\nYes.\n</{tag}>", f"<{tag}>Yes.", "Yes."):
        assert renderer.split(text).text == "Yes."
        thought = renderer.split(f"<think>Hm</think>\n{text}")
        assert (thought.text, thought.thought) == ("Yes.", "Hm")
    for text in ("<p>Yes.</p>", f"Write <{tag}>x</{tag}>.", f"<{tag}>x</{tag}> is XML."):
        assert renderer.split(text).text == text
    plain = renderer_of("zephyr", tmp_path / "plain")
    assert plain.split(f"<{tag}>x</{tag}>").text == f"<{tag}>x</{tag}>"


THOUGHTS = {
    "magistral": ("[THINK]", "[/THINK]"),
    "seed_oss": ("<seed:think>", "\n</seed:think>\n\n"),
    "exaone_deep": ("<thought>", "\n</thought>\n\n"),
    "deepseek_v3_1": ("<think>", "</think>"),
    "granite": ("<think>", "\n</think>\n\n"),
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_the_tags_of_a_thought_are_the_template_s(name: str, tmp_path: Path) -> None:
    thought = renderer_of(name, tmp_path, thinks=True).format.thought
    assert thought is not None
    assert (thought.opening, thought.closing) == THOUGHTS[name]


def test_a_thought_that_a_message_switches_off_is_not_closed_again(tmp_path: Path) -> None:
    renderer = renderer_of("nemotron_nano", tmp_path)
    chat = chat_of(("user", "Hi /no_think"))
    assert prompt_text(renderer, chat).endswith("Hi /no_think\n[S11]Assistant\n<think></think>")


def test_turns_are_joined_where_a_template_counts_them(tmp_path: Path) -> None:
    """Two turns of the user would become a turn of the user and one of the assistant."""
    chat = chat_of(("system", "Be brief."), ("user", "Hi"), ("user", "Bye"))
    renderer = renderer_of("vicuna", tmp_path)
    assert prompt_text(renderer, chat) == "<s>Be brief. USER: Hi\n\nBye ASSISTANT:"
    renderer = renderer_of("zephyr", tmp_path / "zephyr")
    assert prompt_text(renderer, chat).count("<|user|>") == 2


def test_control_tokens_that_no_template_has_are_text(tmp_path: Path) -> None:
    """Tokens of code completion are not special in some tokenizers; words that were added are."""
    wanted = FORMATS["zephyr"]
    family = wanted.family.__class__(
        "", wanted.special, wanted.eos, added=("<|fim_prefix|>", "hello"), bos=wanted.bos
    )
    renderer = load_renderer(save_family(family, wanted.template, tmp_path))
    assert max(renderer.text_ids("<|fim_prefix|>")) < 256
    assert len(renderer.text_ids("hello")) == 1


# ---- files of models ----


def edit(file: Path, **changes: object) -> None:
    values = json.loads(file.read_text()) if file.exists() else {}
    values |= changes
    kept = {key: value for key, value in values.items() if value is not None}
    file.write_text(json.dumps(kept))


def test_a_tokenizer_without_eos_ends_with_the_template_s_token(tmp_path: Path) -> None:
    renderer_of("gemma3", tmp_path)
    edit(tmp_path / "tokenizer_config.json", eos_token=None, pad_token=None)
    renderer = load_renderer(tmp_path)
    assert renderer.tokenizer.eos_token_id is None
    ends = {renderer.tokenizer.decode([token]) for token in renderer.stop_ids}
    assert ends == {"<eos>", "<end_of_turn>"}
    assert renderer.pad_token_id == renderer.end_token_id


def test_ends_of_a_model_without_a_generation_config(tmp_path: Path) -> None:
    """The config has them, also in the part about text; ids beyond the vocabulary are none."""
    renderer_of("gemma3", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    for config in (
        {"eos_token_id": [257, 259, 999]},
        {"text_config": {"eos_token_id": [257, 259]}},
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", **config}))
        assert load_renderer(tmp_path).config_eos == (257, 259)


def test_nothing_ends_a_reply(tmp_path: Path) -> None:
    renderer_of("zephyr", tmp_path)
    edit(tmp_path / "tokenizer_config.json", eos_token=None)
    with pytest.raises(BackendError, match="names no end-of-sequence token") as refused:
        load_renderer(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_named_templates(tmp_path: Path) -> None:
    """Of several templates, the one for chats; without it, one line."""
    renderer_of("zephyr", tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    template = FORMATS["zephyr"].template
    for names in (("default", "tool_use"), ("tool_use", "rag")):
        listed = [
            {"name": name, "template": template if name == "default" else "{{ tools }}"}
            for name in names
        ]
        edit(tmp_path / "tokenizer_config.json", chat_template=listed)
        if "default" in names:
            assert prompt_text(load_renderer(tmp_path), HI) == FORMATS["zephyr"].hi
            continue
        with pytest.raises(BackendError, match="template") as refused:
            load_renderer(tmp_path)
        assert len(str(refused.value).splitlines()) == 1


def test_a_template_in_a_file_beside_the_tokenizer(tmp_path: Path) -> None:
    renderer_of("zephyr", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(FORMATS["vicuna"].template)
    edit(tmp_path / "tokenizer_config.json", chat_template=None)
    assert prompt_text(load_renderer(tmp_path), HI) == FORMATS["vicuna"].hi


def test_templates_that_cannot_do_it_are_refused_in_one_line(tmp_path: Path) -> None:
    for template in (
        "{{ messages[0]['nothing']['at all'] }}",
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% if",
        "{{ raise_exception('This model takes\\nimages only.') }}",
    ):
        folder = save_family(FORMATS["zephyr"].family, template, tmp_path)
        with pytest.raises(BackendError) as refused:
            load_renderer(folder).prompt_ids(HI)
        assert len(str(refused.value).splitlines()) == 1, template
        assert "cai works with templates that write turns" in str(refused.value), template
