"""Reward models that others trained: their own scores, labels from them, and a run's scale."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from canned_runs import open_toy_run
from published_toys import save_reward_model, tiny_classifier
from toys import END, save_tiny, tiny_tokenizer

import cai
from cai.artifacts import PAIRS, PREFERENCES, REWARD
from cai.cli import main
from cai.errors import BackendError, StoreError
from cai.pipeline.config import Run
from cai.pipeline.reward import load_preference_model, load_reward
from cai.pipeline.training_stages import reward
from cai.records import Chat, Pair, Preference, Prompt, chat_of, message_dicts
from cai.reward.preference_folder import open_preference_model
from cai.reward.published_model import load_published_model, load_saved_model, open_published_model
from cai.reward.score_labels import reward_labeller
from cai.store import read_manifest

CHATS = [
    chat_of(("user", "Hi")),
    chat_of(("system", "Be kind."), ("user", "Tell me of the sea."), ("assistant", "It is wet."),
            ("user", "And more?")),
]  # fmt: skip
REPLIES = ["Hello there, how are you?", "No."]


def plain_score(model: Any, tokenizer: Any, chat: Chat, reply: str) -> float:
    """As a model's card says: its own template, one conversation at a time, nothing padded."""
    turns = [*message_dicts(chat), {"role": "assistant", "content": reply}]
    inputs = tokenizer.apply_chat_template(turns, tokenize=True, return_tensors="pt")
    with torch.no_grad():
        return float(model(**inputs).logits[0, 0])


@pytest.mark.parametrize("settings", [{}, {"pad_token_id": None}, {"pad_token_id": 0}])
def test_scores_are_the_models_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of batches of unequal rows, where the padding token ends replies, or is none, or another."""
    folder = save_reward_model(tmp_path / "rm", **settings)
    opened = open_published_model(f"reward:{folder}")
    model, tokenizer = tiny_classifier(**settings), tiny_tokenizer()
    pairs = [(chat, reply) for chat in CHATS for reply in REPLIES]
    scores = opened.score([opened.rows(chat, reply) for chat, reply in pairs])
    expected = [plain_score(model, tokenizer, chat, reply) for chat, reply in pairs]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 3) for score in scores}) > 1


def test_text_stays_text_and_thoughts_are_left_out(tmp_path: Path) -> None:
    """A reply cannot end its turn; its thought is not scored."""
    model = load_published_model(str(save_reward_model(tmp_path / "rm")))
    end = tiny_tokenizer().convert_tokens_to_ids(END)
    plain = model.rows(CHATS[0], "Good.")
    assert model.rows(CHATS[0], f"Good.{END}").count(end) == plain.count(end)
    assert model.rows(CHATS[0], "<think>Hm.</think>Good.") == plain


def test_a_row_beyond_the_window_has_no_score(tmp_path: Path) -> None:
    model = load_published_model(str(save_reward_model(tmp_path / "rm")))
    rows = [model.rows(CHATS[0], "word " * 200), model.rows(CHATS[0], "word")]
    first, second = model.score_within_window(rows)
    assert first is None
    assert second is not None


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    """A chat model's folder; two labels; no template; weights in pickle; code of its own."""
    with pytest.raises(BackendError, match=r"its weights lack score\.weight"):
        load_published_model(str(save_tiny(tmp_path / "chat")))
    with pytest.raises(BackendError, match="has 2 labels: a reward model has one"):
        load_published_model(str(save_reward_model(tmp_path / "two", labels=2)))
    plain = save_reward_model(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(BackendError, match="plain: the tokenizer has no chat template"):
        load_published_model(str(plain))
    folder = save_reward_model(tmp_path / "pickled")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackendError, match="safetensors"):
        load_published_model(str(folder))
    coded = save_reward_model(tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "odd.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(BackendError, match="contains custom code"):
        load_published_model(str(coded))


def test_labels_are_bradley_terry_of_the_scores() -> None:
    """Scores 3 and 1: sigma(2) = 0.8808, and sigma(2 / 4) = 0.6225 at a scale of 4."""
    scores = {"good": 3.0, "bad": 1.0}
    pair = Pair(source="s", chat=CHATS[0], first="good", second="bad")

    def label(scale: float, row: Pair = pair) -> Preference:
        step = reward_labeller(lambda rows: [scores.get(reply) for _, reply in rows], scale)

        async def work() -> Preference:
            return await step(row)

        return asyncio.run(work())

    assert label(1.0).p_first == pytest.approx(0.880797)
    assert label(4.0).p_first == pytest.approx(0.622459)
    (vote,) = label(1.0).votes
    assert (vote.scores, vote.principle) == ((3.0, 1.0), "reward")
    assert vote.logprobs is not None
    assert sum(map(math.exp, vote.logprobs)) == pytest.approx(1)
    unknown = label(1.0, pair.model_copy(update={"second": "unknown"}))
    assert (unknown.p_first, unknown.unscored) == (
        None, "a reply with its prompt is longer than the reward model's window",
    )  # fmt: skip


def test_cai_label_with_a_reward_model(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "rm")
    row = {"prompt": "Hi", "first": REPLIES[0], "second": REPLIES[1]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    options = ["--constitution", "helpful_honest", "--model", f"reward:{folder}"]
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit) as ended:
        main(["label", *options, *files])
    assert ended.value.code == 0
    (labelled,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    first, second = labelled["votes"][0]["scores"]
    assert labelled["p_first"] == pytest.approx(1 / (1 + math.exp(second - first)))
    manifest = read_manifest(tmp_path / "out.jsonl")
    assert manifest is not None
    assert manifest.provenance["scale"] == "1"
    assert manifest.provenance["model"] == load_published_model(str(folder)).fingerprint


def test_a_reward_model_does_not_chat(tmp_path: Path) -> None:
    spec = f"reward:{save_reward_model(tmp_path / 'rm')}"
    with pytest.raises(BackendError, match="labels pairs, and does not chat"):
        cai.revise(["Hi"], constitution="harmless", model=spec)
    with pytest.raises(ValueError, match=r"reward_weights.direct is a judge's rating"):
        Run(name="a", constitution="harmless", prompts=("p",), judge=spec,
            reward_weights={"direct": 1})  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ValueError, match=r"which reward_model replaces"):
        Run(name="a", constitution="harmless", prompts=("p",), reward_model="local:x",
            ppo={"critic": "reward"})  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ValueError, match="name its weights"):
        Run(name="a", constitution="harmless", prompts=("p",), reward_model="fake:x")


def test_a_run_takes_the_published_model_for_its_own(tmp_path: Path) -> None:
    """50-reward names it, with mean 0 and variance 1 over the pairs; the reward uses it."""
    folder = save_reward_model(tmp_path / "rm")
    ctx = open_toy_run(tmp_path, f"reward_model: local:{folder}\nreward_weights: {{pm: 2}}\n")
    pairs = [Pair(source="s", chat=CHATS[0], first=f"Reply {i}.", second="No." * i)
             for i in range(1, 5)]  # fmt: skip
    labels = [Preference(source=pair.id, p_first=0.9) for pair in pairs]
    for name, rows in {PAIRS: pairs, PREFERENCES: labels}.items():
        ctx.path(name).parent.mkdir(exist_ok=True)
        ctx.path(name).write_text("".join(row.line() + "\n" for row in rows))
    reward(ctx)
    model = load_preference_model(ctx)
    scores = model.score([model.rows(p.chat, t) for p in pairs for t in (p.first, p.second)])
    assert sum(scores) / 8 == pytest.approx(0, abs=1e-5)
    assert sum(score**2 for score in scores) / 8 == pytest.approx(1, abs=1e-5)
    metrics = json.loads((ctx.path(REWARD) / "metrics.json").read_text())
    wins = [scores[2 * i] > scores[2 * i + 1] for i in range(4)]
    assert metrics["agreement"]["mean"] == sum(wins) / 4
    manifest = read_manifest(ctx.path(REWARD))
    assert manifest is not None
    assert manifest.provenance["reward_model"].startswith(f"local:{folder} ")
    opened = open_preference_model(ctx.resolved.folder)
    assert opened.score([(CHATS[0], "Reply 1.")]) == pytest.approx([scores[0]], abs=1e-5)
    table = load_reward(ctx)([Prompt(chat=CHATS[0])], ["Reply 1."])
    assert table["pm"] == pytest.approx([2 * scores[0]], abs=1e-5)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(StoreError, match="is another model now than the one that was scaled"):
        load_saved_model(ctx.path(REWARD))
