"""PPO against known optima: the closed form of KL-regularised reward, and a KL at its target.

The model is a Llama of one thin block over twelve words, and a reply is one word, so that the
optimal policy is known exactly: pi*(y) = pi_ref(y) exp(r(y) / beta) / Z (arXiv:1909.08593).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from interruptions import Killed, killed_at
from ppo_toys import CONFIG, with_settings
from tokenizers import Tokenizer, models, pre_tokenizers
from toys import random_llama
from transformers import PreTrainedTokenizerFast

from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.actor import POLICY, Actor, FullActor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.critic import Critic
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

WORDS = ["<unk>", "<end>", "<pad>", "a", "b", "c", "d", "e", "f", "g", "h", "go"]
WANTED = WORDS.index("e")
PROMPT = Prompt(chat=chat_of(("user", "go")))
BANDIT = with_settings(
    CONFIG,
    num_updates=32,
    prompts_per_update=1,
    responses_per_prompt=160,
    max_new_tokens=1,
    num_minibatches=2,
    lora_rank=8,
    learning_rate=2e-2,
    critic_learning_rate=5e-2,
    whiten_advantages=False,
    ema_decay=0.97,
)


def new_actor(folder: Path, config: PPOConfig) -> Actor:
    base = load_model(str(folder))
    if config.mode == "full":
        return FullActor(
            base, load_model(str(folder)), num_trainable_layers=config.num_trainable_layers
        )
    return LoraActor(with_adapter(base, POLICY, config.lora_rank, config.num_trainable_layers))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    model = random_llama(
        len(WORDS),
        num_hidden_layers=1,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=2,
    )
    model.save_pretrained(folder)
    return folder


def wanted(rollouts: Sequence[Rollout]) -> RewardTable:
    return {"wanted": [float(r.response_ids[0] == WANTED) for r in rollouts]}


def distribution(model: Any, folder: Path) -> torch.Tensor:
    """(V,) of the first word of a reply."""
    with torch.no_grad():
        ids = load_renderer(folder).prompt_ids(PROMPT.chat)
        return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def train(
    folder: Path, home: Path, config: PPOConfig, reward_fn: Any = wanted, texts: Any = ()
) -> tuple[Any, list[dict[str, Any]]]:
    """Train from the model in `folder`: (the policy as a plain model, metrics)."""
    torch.manual_seed(0)
    trainer = PPOTrainer(new_actor(folder, config), load_renderer(folder), reward_fn, config)
    home.mkdir(exist_ok=True)
    history = trainer.train([PROMPT], home, texts)
    policy = load_model(str(folder))
    trainer.actor.copy_weights_to(policy)
    return policy, history


# 32 updates of 160 replies for each of three coefficients
@pytest.mark.slow
def test_the_policy_is_the_closed_form(words: Path, tmp_path: Path) -> None:
    """Total variation below 0.02 at three KL coefficients, and the KL falls as the coefficient
    grows.

    pi* gives the wanted word q e^(1/beta) / (1 - q + q e^(1/beta)), where q is its share under the
    reference.
    """
    reference = distribution(load_model(str(words)), words)
    reward = torch.zeros(len(WORDS), dtype=torch.float64)
    reward[WANTED] = 1.0
    kls = []
    for beta in (0.3, 0.5, 0.9):
        policy, history = train(
            words, tmp_path / f"{beta}", with_settings(BANDIT, kl={"coef": beta})
        )
        best = (reference.log() + reward / beta).softmax(-1)
        learnt = distribution(policy, words)
        assert 0.5 * float((learnt - best).abs().sum()) < 0.02, beta
        assert 0.5 * float((reference - best).abs().sum()) > 0.05, "there was something to learn"
        q = float(reference[WANTED])
        lifted = q * math.exp(1 / beta)
        assert float(best[WANTED]) == pytest.approx(lifted / (1 - q + lifted))
        kls.append(fmean(row["kl"] for row in history[-15:]))
    assert kls[0] > kls[1] > kls[2] > 0


def test_the_policy_is_the_closed_form_in_full_fine_tuning(words: Path, tmp_path: Path) -> None:
    reference = distribution(load_model(str(words)), words)
    reward = torch.zeros(len(WORDS), dtype=torch.float64)
    reward[WANTED] = 1.0
    config = with_settings(BANDIT, kl={"coef": 0.5}, mode="full", learning_rate=2e-3)
    policy, _ = train(words, tmp_path / "full", config)
    best = (reference.log() + reward / 0.5).softmax(-1)
    assert 0.5 * float((distribution(policy, words) - best).abs().sum()) < 0.02


def test_an_adaptive_penalty_holds_its_target(words: Path, tmp_path: Path) -> None:
    """Replies of several words, a strong reward, a target of 3 nats: the last half is within 20 %
    of it.
    """

    def wanted_words(rollouts: Sequence[Rollout]) -> RewardTable:
        return {
            "wanted": [4.0 * sum(token == WANTED for token in r.response_ids) for r in rollouts]
        }

    kl = {"coef": 0.5, "target": 3.0, "horizon": 90}
    config = with_settings(
        BANDIT,
        num_updates=44,
        responses_per_prompt=64,
        max_new_tokens=6,
        kl=kl,
        whiten_advantages=True,
        ema_decay=None,
    )
    _, history = train(words, tmp_path / "run", config, wanted_words)
    held = fmean(row["kl"] for row in history[22:])
    assert 2.4 <= held <= 3.6
    assert history[-1]["kl_coef"] != 0.5


# ---- warm-up, early stopping, averages, fine-tuning text ----

LONG = with_settings(
    BANDIT,
    num_updates=6,
    max_new_tokens=40,
    responses_per_prompt=256,
    learning_rate=1e-2,
    critic_learning_rate=5e-3,
    whiten_advantages=True,
    ema_decay=None,
    kl={"coef": 0.0},
)
"""Replies of about twelve words, as each word may be the end. Nothing holds their length."""


def mean_lengths(words: Path, home: Path, reward: float, **settings: Any) -> tuple[float, float]:
    """Mean tokens of a reply in the first update, and in the last three."""

    def constant(rollouts: Sequence[Rollout]) -> RewardTable:
        return {"constant": [reward] * len(rollouts)}

    _, history = train(words, home, with_settings(LONG, **settings), constant)
    lengths = [row["length"] for row in history]
    return lengths[0], fmean(lengths[-3:])


@pytest.mark.slow
@pytest.mark.parametrize("reward", [2.0, -2.0])
@pytest.mark.parametrize("baseline", ["critic", "group"])
def test_a_constant_reward_is_no_reward_for_length(
    words: Path, tmp_path: Path, baseline: str, reward: float
) -> None:
    """With the default lambda of 1, every token of a reply has the same advantage."""
    before, after = mean_lengths(words, tmp_path / "run", reward, baseline=baseline)
    assert after == pytest.approx(before, rel=0.1)


@pytest.mark.slow
def test_a_lower_lambda_is_a_reward_for_length(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would see: with lambda = 0.95 and a critic that begins at zero, stopping
    now earns 2, and going on for k tokens 2 * 0.95^k.
    """
    monkeypatch.setattr(Critic, "init_from_rewards", lambda *_: None)
    before, after = mean_lengths(words, tmp_path / "run", 2.0, lam=0.95)
    assert after < 0.7 * before


SHORT = with_settings(BANDIT, num_updates=2, responses_per_prompt=16)


def test_warm_up_raises_the_rates_step_by_step(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six of eight steps are warm-up: a tenth of the rate, 0.15 more at each step, then the full
    rate.
    """
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recorded_step(self: torch.optim.AdamW) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded_step)
    train(words, tmp_path / "run", with_settings(SHORT, lr_warmup_steps=6))
    assert rates == pytest.approx([2e-2 * min(1.0, 0.1 + 0.15 * n) for n in range(8)])


def test_the_critic_may_be_trained_alone_first(words: Path, tmp_path: Path) -> None:
    policy, history = train(words, tmp_path / "run", with_settings(SHORT, critic_warmup_updates=2))
    assert torch.equal(distribution(policy, words), distribution(load_model(str(words)), words))
    assert history[1]["explained_variance"] is not None
    assert [row["grad_norm"] for row in history] == [0.0, 0.0]


def test_an_update_ends_early_beyond_its_kl_limit(words: Path, tmp_path: Path) -> None:
    """The first step starts from the policy that sampled, so it is always taken. The second
    exceeds the limit.
    """
    config = with_settings(SHORT, kl={"coef": 0.1, "stop": 1e-9}, learning_rate=5e-2)
    _, history = train(words, tmp_path / "run", config)
    assert [row["steps_fraction"] for row in history] == [2 / 4, 2 / 4]


def test_the_run_ends_with_the_average(words: Path, tmp_path: Path) -> None:
    """After eight steps a slow average is still near the start and a quick one is not; without an
    average the last weights are kept.
    """
    start = distribution(load_model(str(words)), words)
    moved = {}
    for decay in (None, 0.5, 0.99):
        policy, _ = train(words, tmp_path / f"{decay}", with_settings(SHORT, ema_decay=decay))
        moved[decay] = float((distribution(policy, words) - start).abs().sum())
    assert min(moved[None], moved[0.5]) > 2 * moved[0.99] > 0


def test_pretraining_text_pulls_towards_itself(words: Path, tmp_path: Path) -> None:
    """The text is `b`: with its gradient in each step, `b` is likelier in the end than without, at
    the same seed.
    """
    renderer = load_renderer(words)
    texts = [(renderer.prompt_ids(PROMPT.chat), [WORDS.index("b")])] * 4
    share, losses = {}, {}
    for coef in (0.0, 1.0):
        config = with_settings(
            BANDIT, num_updates=10, responses_per_prompt=32, ptx={"coef": coef, "batch_size": 4}
        )
        policy, history = train(words, tmp_path / f"{coef}", config, texts=texts)
        share[coef] = float(distribution(policy, words)[WORDS.index("b")])
        losses[coef] = [row.get("ptx_loss") for row in history]
    assert share[1.0] > share[0.0] + 0.05
    assert losses[0.0] == [None] * 10
    assert losses[1.0][0] > losses[1.0][-1]


def test_a_killed_run_with_all_settings_is_resumed_exactly(words: Path, tmp_path: Path) -> None:
    """Average, warm-up, fine-tuning text and an adaptive penalty: a run that was killed in its
    third update ends with the same bits.
    """
    texts = [(load_renderer(words).prompt_ids(PROMPT.chat), [WORDS.index("b")])] * 4
    kl = {"coef": 0.2, "target": 0.5, "horizon": 50}
    config = with_settings(
        SHORT, num_updates=4, lr_warmup_steps=9, ptx={"coef": 0.5, "batch_size": 2}, kl=kl
    )
    uninterrupted, history = train(words, tmp_path / "uninterrupted", config, texts=texts)
    with pytest.raises(Killed):
        train(words, tmp_path / "cut", config, killed_at(2, wanted), texts=texts)
    (tmp_path / "cut").rename(tmp_path / "again")
    resumed, metrics = train(words, tmp_path / "again", config, texts=texts)
    assert metrics == history
    assert torch.equal(distribution(resumed, words), distribution(uninterrupted, words))
