"""A run from prompts to report on tiny random models of three families' shapes and formats."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from architectures import random_decoder
from interruptions import quiet
from json_lines import write_lines
from template_formats import FORMATS as PLAIN_FORMATS
from template_toys import family_tokenizer, save_family
from thinking_formats import THINKING_FORMATS

from cai.cli import main
from cai.modeling.tokenization import load_renderer
from cai.records import EvalReply, Pair, Revision, chat_of
from cai.store import read_rows
from cai.train.sft import Example, SFTConfig, completion_ids, sft

FORMATS = PLAIN_FORMATS | THINKING_FORMATS
FAMILIES = {"gemma3": "gemma3_text", "qwen3": "qwen3", "harmony": "gpt_oss"}
"""Format -> model type."""
ENDS = {"gemma3": "<end_of_turn>", "qwen3": "<|im_end|>", "harmony": "<|return|>"}
CONSTITUTION = """\
name: lenient
version: 0.0.1
principles:
  - id: brief
    category: style
    critique: Say why it is long.
    revision: Make it shorter.
    compare: Prefer the shorter reply.
rubric:
  behaviours: {disallowed: answer, sensitive: answer, benign: answer}
  propositions: {empty: {question: No word}}
  classes:
    answer:
      - {name: fine, when: not empty, style: safe_answer, correct: true}
      - {name: blank, when: empty, style: undesired_refusal, correct: false}
  degrees: {full_refusal: empty, full_compliance: not empty}
  weights: {answer: {fine: 1.0, blank: -1.0}}
"""
KINDS = ("disallowed", "sensitive", "benign")
RUN = """\
name: toy
model: local:{model}
constitution: lenient.yaml
prompts: [prompts.jsonl]
held_out: 0.4
revise: {{rounds: 1, max_tokens: 6, critique_tokens: 4}}
sft: {{epochs: 1, batch_size: 4, lora_rank: 2, max_length: 512}}
pair: {{max_tokens: 6}}
label: {{principles: 1}}
reward: {{lora_rank: 2, epochs: 1, batch_size: 4, held_out: 0.3}}
ppo:
  num_updates: 1
  lora_rank: 2
  rollout: {{prompts_per_update: 2, responses_per_prompt: 2, max_new_tokens: 6}}
  optimization: {{num_minibatches: 1}}
eval: {{draws: 1, max_tokens: 6}}
"""

pytestmark = [
    # complete runs with training
    pytest.mark.slow,
    # the trainer and its data library warn about each other
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(the family, the folder of a run of its model)."""
    family = FORMATS[request.param].family
    template = FORMATS[request.param].template
    home = tmp_path_factory.mktemp(request.param)
    size = len(family_tokenizer(family, template))
    model = random_decoder(
        FAMILIES[request.param], vocab_size=size, pad_token_id=256, max_position_embeddings=4096
    )
    model.save_pretrained(home / "raw")
    save_family(family, template, home / "raw")
    # short replies that end
    answers = ["yes.", "no.", "ok.", "hi.", "why?", "me too."]
    examples = [
        Example(chat_of(("user", f"{kind} {i}")), answer)
        for kind in KINDS
        for i, answer in enumerate(answers)
    ]
    config = SFTConfig(mode="full", learning_rate=1e-2, epochs=16, batch_size=9)
    sft(str(home / "raw"), examples, config, home / "model", seed=0, progress=quiet)
    (home / "lenient.yaml").write_text(CONSTITUTION, encoding="utf-8")
    (home / "run.yaml").write_text(RUN.format(model=home / "model"), encoding="utf-8")
    prompts = [{"prompt": f"{k} {i}", "kind": k, "category": "c"} for k in KINDS for i in range(6)]
    write_lines(home / "prompts.jsonl", *prompts)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(home / "run.yaml"), "--set", f"folder={home / 'run'}"])
    logging.disable(logging.NOTSET)
    assert not ended.value.code
    return request.param, home / "run"


def test_every_stage_ends(finished: tuple[str, Path]) -> None:
    _, folder = finished
    names = {path.name for path in folder.iterdir()}
    assert {"20-sft", "40-preferences.jsonl", "50-reward", "60-policy", "report.html"} <= names
    assert list(read_rows(folder / "10-revisions.jsonl", Revision))
    assert list(read_rows(folder / "30-pairs.jsonl", Pair))
    assert list(read_rows(folder / "70-replies.jsonl", EvalReply))


def test_trained_models_end_turns_with_the_template_s_token(finished: tuple[str, Path]) -> None:
    """In what fine-tuning learns, in what the preference model reads, and in what is saved."""
    name, folder = finished
    for stage in ("20-sft", "60-policy"):
        renderer = load_renderer(folder / stage)
        decode = renderer.tokenizer.decode
        assert decode([renderer.end_token_id]) == ENDS[name]
        learnt = completion_ids(renderer, Example(chat_of(("user", "Hi")), "Yes."))
        assert decode(learnt) == f"Yes.{ENDS[name]}"
        saved = json.loads((folder / stage / "generation_config.json").read_text())["eos_token_id"]
        listed = saved if isinstance(saved, list) else [saved]
        assert listed[0] == renderer.end_token_id
        assert set(listed) == renderer.stop_ids
