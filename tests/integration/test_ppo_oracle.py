"""PPO against what it ought to find: the closed form of KL-controlled reward, a KL that stays where
it is told to.

The model is a Llama of one thin block over twelve words, and a reply is one word, so that the best
policy is known exactly: pi*(y) = pi_ref(y) exp(r(y) / beta) / Z (arXiv:1909.08593).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from ppo_toys import with_settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.actor import POLICY, Actor, FullActor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

WORDS = ["<unk>", "<end>", "<pad>", "a", "b", "c", "d", "e", "f", "g", "h", "go"]
WANTED = WORDS.index("e")
PROMPT = Prompt(chat=chat_of(("user", "go")))
BANDIT = with_settings(
    PPOConfig(),
    num_updates=32,
    prompts_per_update=1,
    responses_per_prompt=160,
    max_new_tokens=1,
    temperature=1.0,
    lora_rank=8,
    learning_rate=2e-2,
    critic_learning_rate=5e-2,
    num_ppo_epochs=2,
    num_minibatches=2,
    whiten_advantages=False,
    ema_decay=0.97,
)


def actor(folder: Path, config: PPOConfig) -> Actor:
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
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def wanted(rollouts: Sequence[Rollout]) -> RewardTable:
    return {"wanted": [float(r.response_ids[0] == WANTED) for r in rollouts]}


def distribution(model: Any, folder: Path) -> torch.Tensor:
    """(V,) of the first word of a reply."""
    with torch.no_grad():
        ids = load_renderer(folder).prompt_ids(PROMPT.chat)
        return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def trained(
    folder: Path, home: Path, config: PPOConfig, reward_fn: Any = wanted, texts: Any = ()
) -> tuple[Any, list[dict[str, Any]]]:
    """(the policy as a plain model, metrics)."""
    torch.manual_seed(0)
    trainer = PPOTrainer(actor(folder, config), load_renderer(folder), reward_fn, config)
    home.mkdir(exist_ok=True)
    history = trainer.train([PROMPT], home, texts)
    return written(trainer.actor, folder), history


def written(actor: Actor, folder: Path) -> Any:
    model = load_model(str(folder))
    actor.copy_weights_to(model)
    return model


def test_the_policy_is_the_closed_form(words: Path, tmp_path: Path) -> None:
    """Within 0.02 of total variation at three strengths of the penalty, and the KL falls as the
    penalty grows.

    pi* gives the wanted word q e^(1/beta) / (1 - q + q e^(1/beta)), where q is its share under the
    reference.
    """
    reference = distribution(load_model(str(words)), words)
    reward = torch.zeros(len(WORDS), dtype=torch.float64)
    reward[WANTED] = 1.0
    kls = []
    for beta in (0.3, 0.5, 0.9):
        policy, history = trained(
            words, tmp_path / f"{beta}", with_settings(BANDIT, kl={"coef": beta})
        )
        best = (reference.log() + reward / beta).softmax(-1)
        found = distribution(policy, words)
        assert 0.5 * float((found - best).abs().sum()) < 0.02, beta
        assert 0.5 * float((reference - best).abs().sum()) > 0.05, "there was something to learn"
        q = float(reference[WANTED])
        lifted = q * math.exp(1 / beta)
        assert float(best[WANTED]) == pytest.approx(lifted / (1 - q + lifted))
        kls.append(fmean(row["kl"] for row in history[-15:]))
    assert kls[0] > kls[1] > kls[2] > 0


def test_the_policy_is_the_closed_form_when_every_weight_learns(
    words: Path, tmp_path: Path
) -> None:
    reference = distribution(load_model(str(words)), words)
    reward = torch.zeros(len(WORDS), dtype=torch.float64)
    reward[WANTED] = 1.0
    config = with_settings(BANDIT, kl={"coef": 0.5}, mode="full", learning_rate=2e-3)
    policy, _ = trained(words, tmp_path / "full", config)
    best = (reference.log() + reward / 0.5).softmax(-1)
    assert 0.5 * float((distribution(policy, words) - best).abs().sum()) < 0.02


def test_an_adaptive_penalty_holds_its_target(words: Path, tmp_path: Path) -> None:
    """Replies of several words, a reward that would pull far away, a target of 3 nats: within 20 %
    over the last half.
    """

    def many(rollouts: Sequence[Rollout]) -> RewardTable:
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
    _, history = trained(words, tmp_path / "run", config, many)
    held = fmean(row["kl"] for row in history[22:])
    assert 2.4 <= held <= 3.6
    assert history[-1]["kl_coef"] != 0.5


# ---- the parts beside it ----

SHORT = with_settings(BANDIT, num_updates=2, responses_per_prompt=16)


def test_warm_up_raises_the_rates_step_by_step(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps in all, six of them on the way up: from a tenth of the rate by 0.15 of it, then
    the whole.
    """
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained(words, tmp_path / "run", with_settings(SHORT, lr_warmup_steps=6))
    assert rates == pytest.approx([2e-2 * min(1.0, 0.1 + 0.15 * n) for n in range(8)])


def test_the_critic_may_learn_alone_first(words: Path, tmp_path: Path) -> None:
    policy, history = trained(
        words, tmp_path / "run", with_settings(SHORT, critic_warmup_updates=2)
    )
    assert torch.equal(distribution(policy, words), distribution(load_model(str(words)), words))
    assert history[1]["explained_variance"] is not None
    assert [row["grad_norm"] for row in history] == [0.0, 0.0]


def test_an_update_ends_early_when_it_has_gone_too_far(words: Path, tmp_path: Path) -> None:
    """The first step never counts as too far: it starts from the policy that sampled. The second
    does here.
    """
    config = with_settings(SHORT, kl={"coef": 0.1, "stop": 1e-9}, learning_rate=5e-2)
    _, history = trained(words, tmp_path / "run", config)
    assert [row["steps_fraction"] for row in history] == [2 / 4, 2 / 4]


def test_the_average_is_kept_in_the_end(words: Path, tmp_path: Path) -> None:
    """A slow average is still near the start after eight steps, a quick one is not; without one the
    last weights are kept.
    """
    start = distribution(load_model(str(words)), words)
    moved = {}
    for decay in (None, 0.5, 0.99):
        policy, _ = trained(words, tmp_path / f"{decay}", with_settings(SHORT, ema_decay=decay))
        moved[decay] = float((distribution(policy, words) - start).abs().sum())
    assert min(moved[None], moved[0.5]) > 2 * moved[0.99] > 0


def test_pretraining_text_pulls_towards_itself(words: Path, tmp_path: Path) -> None:
    """The text says `b`; with its gradient in each step, `b` is likelier in the end than without,
    at the same seed.
    """
    renderer = load_renderer(words)
    texts = [(renderer.prompt_ids(PROMPT.chat), [WORDS.index("b")])] * 4
    share, losses = {}, {}
    for coef in (0.0, 1.0):
        config = with_settings(
            BANDIT, num_updates=10, responses_per_prompt=32, ptx={"coef": coef, "batch_size": 4}
        )
        policy, history = trained(words, tmp_path / f"{coef}", config, texts=texts)
        share[coef] = float(distribution(policy, words)[WORDS.index("b")])
        losses[coef] = [row.get("ptx_loss") for row in history]
    assert share[1.0] > share[0.0] + 0.05
    assert losses[0.0] == [None] * 10
    assert losses[1.0][0] > losses[1.0][-1]


def test_stopped_and_resumed_with_everything_on(words: Path, tmp_path: Path) -> None:
    """Average, warm-up, pretraining text and an adaptive penalty: one run, or one stopped after its
    second update: same bits.
    """

    class Stop(BaseException): ...

    texts = [(load_renderer(words).prompt_ids(PROMPT.chat), [WORDS.index("b")])] * 4
    kl = {"coef": 0.2, "target": 0.5, "horizon": 50}
    config = with_settings(
        SHORT, num_updates=4, lr_warmup_steps=9, ptx={"coef": 0.5, "batch_size": 2}, kl=kl
    )
    whole, history = trained(words, tmp_path / "whole", config, texts=texts)
    calls = []

    def stops(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        if len(calls) == 3:
            raise Stop
        return wanted(rollouts)

    with pytest.raises(Stop):
        trained(words, tmp_path / "cut", config, stops, texts=texts)
    (tmp_path / "cut").rename(tmp_path / "again")
    resumed, metrics = trained(words, tmp_path / "again", config, texts=texts)
    assert metrics == history
    assert torch.equal(distribution(resumed, words), distribution(whole, words))
