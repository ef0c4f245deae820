"""A run from prompts to report on tiny random models of three families' shapes and formats."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from architectures import random_decoder
from interruptions import quiet
from json_lines import write_lines
from template_formats import FORMATS as PLAIN_FORMATS
from template_toys import family_tokenizer, save_family
from thinking_formats import THINKING_FORMATS
from torch import Tensor

from cai.cli import main
from cai.modeling.tokenization import load_renderer
from cai.records import EvalReply, Pair, Preference, Revision, chat_of
from cai.reward.preference_model import PreferenceModel
from cai.store import read_rows
from cai.train import sft as sft_module
from cai.train.ppo import rollout
from cai.train.sft import Example, SFTConfig, sft

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
held_out: 0.3
revise: {{rounds: 1, max_tokens: 6, critique_tokens: 4}}
sft: {{epochs: 1, batch_size: 8, lora_rank: 2, max_length: 1024}}
pair: {{max_tokens: 6}}
label: {{principles: 1}}
reward: {{lora_rank: 2, epochs: 1, batch_size: 8, held_out: 0.3}}
ppo:
  num_updates: 1
  lora_rank: 2
  rollout: {{prompts_per_update: 2, responses_per_prompt: 2, max_new_tokens: 6}}
  optimization: {{num_minibatches: 1}}
eval: {{draws: 1, max_tokens: 6}}
"""
ANSWERS = ("yes.", "no.", "ok.", "hi.", "why?", "me too.")

pytestmark = [
    # complete runs with training
    pytest.mark.slow,
    # the trainer and its data library warn about each other
    pytest.mark.filterwarnings("ignore"),
]


@dataclass
class Run:
    """A run that has ended, and the token rows in it."""

    name: str
    folder: Path
    learnt: list[list[int]] = field(default_factory=list)
    """What fine-tuning learns."""
    scored: list[list[int]] = field(default_factory=list)
    """What the preference model reads, also as PPO's reward."""
    sampled: list[list[int]] = field(default_factory=list)
    """PPO's responses that ended."""

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        tokenize, scores = sft_module.tokenize, PreferenceModel.unnormalized_scores
        make_rollout = rollout._rollout

        def watched_tokenize(*args: Any) -> Any:
            rows, too_long = tokenize(*args)
            self.learnt += [[i for i in row["labels"] if i >= 0] for row in rows]
            return rows, too_long

        def watched_scores(model: PreferenceModel, rows: Sequence[Sequence[int]]) -> Tensor:
            self.scored += map(list, rows)
            return scores(model, rows)

        def watched_rollout(*args: Any) -> Any:
            result = make_rollout(*args)
            self.sampled += [result.response_ids] if result.finished else []
            return result

        patch.setattr(sft_module, "tokenize", watched_tokenize)
        patch.setattr(PreferenceModel, "unnormalized_scores", watched_scores)
        patch.setattr(rollout, "_rollout", watched_rollout)


@pytest.fixture(scope="module", params=FAMILIES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    format = FORMATS[request.param]
    home = tmp_path_factory.mktemp(request.param)
    size = len(family_tokenizer(format.family, format.template))
    model = random_decoder(
        FAMILIES[request.param], vocab_size=size, pad_token_id=256, max_position_embeddings=4096
    )
    model.save_pretrained(home / "raw")
    save_family(format.family, format.template, home / "raw")
    # short replies that end
    examples = [
        Example(chat_of(("user", f"{kind} {i}")), answer)
        for kind in KINDS
        for i, answer in enumerate(ANSWERS)
    ]
    config = SFTConfig(mode="full", learning_rate=1e-2, epochs=16, batch_size=9)
    sft(str(home / "raw"), examples, config, home / "model", seed=0, progress=quiet)
    (home / "lenient.yaml").write_text(CONSTITUTION, encoding="utf-8")
    (home / "run.yaml").write_text(RUN.format(model=home / "model"), encoding="utf-8")
    prompts = [{"prompt": f"{k} {i}", "kind": k, "category": "c"} for k in KINDS for i in range(4)]
    write_lines(home / "prompts.jsonl", *prompts)
    run = Run(request.param, home / "run")
    with pytest.MonkeyPatch.context() as patch:
        run.watch(patch)
        with pytest.raises(SystemExit) as ended:
            main(["run", str(home / "run.yaml"), "--set", f"folder={run.folder}"])
    logging.disable(logging.NOTSET)
    assert not ended.value.code
    return run


def test_every_stage_ends(finished: Run) -> None:
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert {"20-sft", "40-preferences.jsonl", "50-reward", "60-policy", "report.html"} <= names
    assert any(row.final for row in read_rows(folder / "10-revisions.jsonl", Revision))
    assert list(read_rows(folder / "30-pairs.jsonl", Pair))
    assert list(read_rows(folder / "40-preferences.jsonl", Preference))
    assert list(read_rows(folder / "70-replies.jsonl", EvalReply))


def test_replies_end_with_the_template_s_token(finished: Run) -> None:
    """What fine-tuning learns, what the preference model and PPO's reward read, what PPO samples;
    and what the saved models end with.
    """
    renderer = load_renderer(finished.folder / "20-sft")
    end = renderer.end_token_id
    assert renderer.tokenizer.decode([end]) == ENDS[finished.name]
    assert {row[-1] for row in finished.learnt} == {end}
    assert {row[-1] for row in finished.scored} == {end}
    assert end in {row[-1] for row in finished.sampled} <= renderer.stop_ids
    for stage in ("20-sft", "60-policy"):
        config = json.loads((finished.folder / stage / "generation_config.json").read_text())
        saved = config["eos_token_id"]
        listed = saved if isinstance(saved, list) else [saved]
        assert listed[0] == end
        assert set(listed) == renderer.stop_ids
