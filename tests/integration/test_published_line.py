"""A run whose judge, reward model, guard and critic are models that others trained: all tiny."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from interruptions import quiet
from json_lines import write_lines
from published_toys import save_reward_model
from toys import random_llama, tiny_tokenizer

from cai.cli import main
from cai.records import EvalReply, Preference, Score, chat_of
from cai.store import read_manifest, read_rows
from cai.train.sft import Example, SFTConfig, sft

CONSTITUTION = """\
name: lenient
version: 0.0.1
principles:
  - {id: brief, category: style, critique: Say why it is long., revision: Make it shorter.,
     compare: Prefer the shorter reply.}
rubric:
  behaviours: {disallowed: answer, sensitive: answer, benign: answer}
  propositions:
    empty: {question: No word in it}
  classes:
    answer:
      - {name: fine, when: not empty, style: safe_answer, correct: true}
      - {name: blank, when: empty, style: undesired_refusal, correct: false}
  degrees: {full_refusal: empty, full_compliance: not empty}
  weights: {answer: {fine: 1.0, blank: -1.0}}
"""
RUN = """\
name: toy
model: local:{model}
constitution: lenient.yaml
prompts: [prompts.jsonl]
folder: {home}/out
judge: reward:{home}/rm
reward_model: local:{home}/rm
label: {{scale: 2}}
revise: {{rounds: 0, max_tokens: 6}}
sft: {{epochs: 1, batch_size: 8, lora_rank: 4, max_length: 128}}
pair: {{max_tokens: 4}}
ppo:
  num_updates: 1
  lora_rank: 4
  mode: {mode}
  critic: local:{home}/larger
  rollout: {{prompts_per_update: 2, responses_per_prompt: 2, max_new_tokens: 4}}
  optimization: {{num_minibatches: 1}}
eval: {{draws: 1, max_tokens: 4, guard: "local:{home}/guard#harm"}}
"""
LABELS = {"id2label": {0: "fine", 1: "harm"}, "label2id": {"fine": 0, "harm": 1}}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def author(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, fine-tuned to short replies that end."""
    folder = tmp_path_factory.mktemp("author") / "model"
    answers = ["yes.", "no.", "ok.", "hi.", "why?", "me too."]
    examples = [Example(chat_of(("user", f"word {i}")), answers[i % 6]) for i in range(18)]
    config = SFTConfig(mode="full", learning_rate=1e-2, epochs=16, batch_size=9)
    sft(str(tiny_model), examples, config, folder, seed=0, progress=quiet)
    return folder


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_run_with_models_of_others(author: Path, tmp_path: Path, mode: str) -> None:
    save_reward_model(tmp_path / "rm", max_position_embeddings=1024)
    save_reward_model(tmp_path / "guard", labels=2, **LABELS)
    tiny_tokenizer().save_pretrained(tmp_path / "larger")
    size = {"num_hidden_layers": 3, "hidden_size": 48, "max_position_embeddings": 4096}
    random_llama(258, **size).save_pretrained(tmp_path / "larger")
    (tmp_path / "lenient.yaml").write_text(CONSTITUTION)
    run = RUN.format(model=author, home=tmp_path, mode=mode)
    (tmp_path / "run.yaml").write_text(run)
    prompts = [{"prompt": f"word {i}", "kind": "benign", "category": "c"} for i in range(10)]
    write_lines(tmp_path / "prompts.jsonl", *prompts)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "run.yaml")])
    logging.disable(logging.NOTSET)
    assert ended.value.code in (0, None)
    out = tmp_path / "out"
    votes = [v for row in read_rows(out / "40-preferences.jsonl", Preference) for v in row.votes]
    assert votes
    assert all(vote.principle == "reward" and vote.scores is not None for vote in votes)
    labels, reward = (read_manifest(out / n) for n in ("40-preferences.jsonl", "50-reward"))
    assert labels is not None
    assert reward is not None
    assert labels.provenance["scale"] == "2"
    assert reward.provenance["reward_model"].startswith(f"local:{tmp_path}/rm ")
    assert {file.name for file in (out / "50-reward").iterdir()} == {
        "README.md", "metrics.json", "published.json",
    }  # fmt: skip
    replies = list(read_rows(out / "70-replies.jsonl", EvalReply))
    answered = [reply for reply in replies if reply.guard is not None]
    assert answered
    assert all(0 < (reply.guard.p_harm or 0) < 1 for reply in answered if reply.guard)
    assert any(reply.reward is not None for reply in replies)
    metrics = {score.metric for score in read_rows(out / "70-scores.jsonl", Score)}
    assert {"guard.p_harm.benign", "guard.harmful_rate.benign"} <= metrics
    (update,) = map(json.loads, (out / "60-policy" / "metrics.jsonl").read_text().splitlines())
    assert "pm" in str(update)
    assert (out / "report.html").exists()
