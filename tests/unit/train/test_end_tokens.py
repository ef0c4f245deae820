"""Training with a template whose turns end with another token than the tokenizer's eos."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from interruptions import quiet
from template_toys import Family, save_family

from cai.lm.local import load_local
from cai.modeling.generation import Generation
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Prompt, chat_of
from cai.reward.preference_model import PreferenceModel
from cai.train.ppo import rollout
from cai.train.ppo.config import RolloutConfig
from cai.train.sft import Example, SFTConfig, sft, tokenize
from cai.train.sft_rows import SFTRow, select_rows

FAMILY = Family(
    "",
    ("<pad>", "<eos>", "<bos>", "<turn>", "<end_of_turn>"),
    eos="<eos>",
    bos="<bos>",
    config_eos=("<eos>",),
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}"
    "\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
EOS, END = 257, 260
HI = chat_of(("user", "Hi"))
# The trainer and its data library warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(FAMILY, TEMPLATE, tmp_path_factory.mktemp("base"), model=True)


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    return load_renderer(base)


def test_fine_tuning_teaches_the_templates_token(renderer: Renderer) -> None:
    examples = [Example(HI, "ok"), Example(HI, "<think>x</think>ok")]
    rows, _ = tokenize(renderer, examples, 64)
    ok = renderer.text_ids("ok")
    for row in rows:
        assert [label for label in row["labels"] if label >= 0] == [*ok, END]


def test_a_thought_alone_is_no_reply_to_learn() -> None:
    rows = [
        SFTRow("a", HI, "Yes.", True, None, None),
        SFTRow("b", HI, "<think>Hmm", True, None, None),
    ]
    kept, counts = select_rows(rows, SFTConfig(), 0)
    assert [row.id for row in kept] == ["a"]
    assert counts == {"thought alone": 1}


def test_a_fine_tuned_model_stops_elsewhere_too(base: Path, tmp_path: Path) -> None:
    """Its generation config names the template's token first; `local:` opens it alike."""
    config = SFTConfig(lora_rank=2, epochs=1, batch_size=1, max_length=64)
    out = tmp_path / "out"
    sft(str(base), [Example(HI, "ok")], config, out, seed=0, progress=quiet)
    saved = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["eos_token_id"] == [END, EOS]
    assert load_local(str(out)).renderer.stop_ids == {EOS, END}


def test_the_preference_model_scores_at_the_templates_token(base: Path, renderer: Renderer) -> None:
    model = PreferenceModel(with_adapter(load_model(str(base)), "reward", 2, None), renderer)
    row = model.rows(HI, "ok")
    assert row[-3:] == [*renderer.text_ids("ok"), END]


def test_rollouts_stop_at_the_templates_token(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is a part of the response, and no part of the text that rewards see."""
    written = [*renderer.control_ids("<think>Hmm.</think>"), *renderer.text_ids("ok"), END]

    def generate(model: Any, rows: Any, **settings: Any) -> list[Generation]:
        assert settings["stop_ids"] == {EOS, END}
        return [Generation(written, True) for _ in rows]

    monkeypatch.setattr(rollout, "generate", generate)
    prompts = [Prompt(chat=chat_of(("user", text))) for text in ("Hi", "Yo")]
    requests = [rollout.RolloutRequest(prompt, 0) for prompt in prompts]
    model: Any = SimpleNamespace(device=torch.device("cpu"))
    for sampled in rollout.sample_rollouts(model, renderer, requests, RolloutConfig()):
        assert sampled.response_ids[-1] == END
        assert (sampled.text, sampled.finished) == ("ok", True)
