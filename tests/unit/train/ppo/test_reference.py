"""The KL of PPO from the fine-tuned model, where the policy starts, or from the base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ppo_toys import CONFIG, PROMPTS, copied_weights, high_bytes, literal_logprobs, with_settings
from toys import tiny_tokenizer

from cai.errors import TrainError, UsageError
from cai.modeling.loading import load_model
from cai.modeling.tokenization import load_renderer
from cai.train.ppo.actor import FullActor, LoraActor, build_actor
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer
from cai.train.preference import RewardConfig


@pytest.fixture(scope="module")
def fine_tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with every weight moved a little."""
    folder = tmp_path_factory.mktemp("sft")
    model = load_model(str(tiny_model))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("reference", ["sft", "base"])
def test_the_first_kl_is_that_of_the_fine_tuned_model(
    tiny_model: Path, fine_tuned: Path, tmp_path: Path, mode: str, reference: str
) -> None:
    """From itself 0; from the base, the mean over replies of the summed log-ratio, computed here
    from one plain forward pass of each model.
    """
    settings = {"mode": mode, "reference": reference, "num_updates": 2, "num_trainable_layers": 1}
    config = with_settings(CONFIG, **settings)
    other = str(tiny_model) if reference == "base" else None
    actor, _ = build_actor(config, str(fine_tuned), None, other)
    assert isinstance(actor, LoraActor | FullActor)
    before = copied_weights(actor.reference_model) if actor.reference_model is not None else {}
    seen: list[Sequence[Rollout]] = []

    def reward(rollouts: Sequence[Rollout]) -> RewardTable:
        seen.append(rollouts)
        return high_bytes(rollouts)

    history = PPOTrainer(actor, load_renderer(fine_tuned), reward, config).train(PROMPTS, tmp_path)
    if reference == "sft":
        assert history[0]["kl"] == pytest.approx(0, abs=1e-4)
        return
    models = load_model(str(fine_tuned)), load_model(str(tiny_model))
    with torch.no_grad():
        ratios = [
            float((literal_logprobs(models[0], r) - literal_logprobs(models[1], r)).sum())
            for r in seen[0]
        ]
    expected = sum(ratios) / len(ratios)
    assert expected > 0.1
    assert history[0]["kl"] == pytest.approx(expected, abs=1e-3)
    assert actor.reference_model is not None
    after = copied_weights(actor.reference_model)
    assert all(torch.equal(before[name], weights) for name, weights in after.items())


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_preference_model_reads_the_fine_tuned_model(
    tiny_model: Path, fine_tuned: Path, mode: str
) -> None:
    """Its adapter was trained on that one, whatever the reference is."""
    config = with_settings(CONFIG, mode=mode, reference="base")
    _, base = build_actor(config, str(fine_tuned), RewardConfig(), str(tiny_model))
    assert base is not None
    ids = torch.tensor([[5, 9, 200]])
    with torch.no_grad(), base.disable_adapter():
        assert torch.equal(base(ids).logits, load_model(str(fine_tuned))(ids).logits)


def test_a_reference_with_other_tokens_is_refused(
    tiny_model: Path, fine_tuned: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    load_model(str(tiny_model)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TrainError, match="has other tokens than") as error:
        build_actor(CONFIG, str(fine_tuned), None, str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_trainer_of_one_model_has_no_base(tiny_model: Path) -> None:
    config = with_settings(CONFIG, reference="base")
    with pytest.raises(UsageError, match=r"ppo\.reference: base"):
        PPOTrainer.from_pretrained(f"local:{tiny_model}", high_bytes, config)
