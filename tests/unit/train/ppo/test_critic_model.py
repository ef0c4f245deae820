"""A critic that reads a larger model's states than the one that learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ppo_toys import CONFIG, train, with_settings
from toys import random_llama, save_tiny, tiny_tokenizer

from cai.errors import ConfigError
from cai.modeling.loading import load_model
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.critic import KINDS, Critic, load_critic_model
from cai.train.ppo.trainer import PPOTrainer


def save_larger(folder: Path, vocabulary: int = 258) -> Path:
    """A model of three layers and width 48 with the same tokenizer."""
    tiny_tokenizer().save_pretrained(folder)
    settings = {"num_hidden_layers": 3, "hidden_size": 48, "max_position_embeddings": 4096}
    random_llama(vocabulary, **settings).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return save_tiny(tmp_path / "tiny"), save_larger(tmp_path / "larger")


def test_the_heads_read_the_models_own_states(folders: tuple[Path, Path]) -> None:
    """The states are the larger model's last ones, in its width; nothing of it learns."""
    _, larger = folders
    critic, model = Critic(32), load_model(str(larger))
    critic.read_model(model)
    ids_BT = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 10]])
    assert critic.backbone is not None
    plain = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    assert torch.allclose(critic.backbone(ids_BT), plain.float(), atol=1e-5)
    assert critic.head.weight.shape == (len(KINDS), 48)
    assert not critic.head.weight.any()
    assert not any(p.requires_grad for p in model.parameters())
    assert [name for name, _ in critic.named_parameters()] == ["head.weight", "head.bias"]


def test_ppo_learns_with_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The larger critic's heads leave 0; at first they say the mean reward, its `pm` included."""
    tiny, larger = folders
    config = with_settings(CONFIG, critic=f"local:{larger}")
    trainer = PPOTrainer.from_pretrained(
        f"local:{tiny}", lambda rows: {"pm": [2.0] * len(rows)}, config
    )
    critic = trainer.actor.critic
    assert critic.backbone is not None
    assert critic.head.in_features == 48
    history = train(trainer, tmp_path / "out")
    assert len(history) == CONFIG.num_updates
    assert float(critic.head.bias[-1].detach()) == pytest.approx(2.0, abs=0.2)


def test_a_critic_of_another_family_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    tiny, larger = folders
    with pytest.raises(ConfigError, match="and the model that learns takes 9000"):
        load_critic_model(f"local:{larger}", str(tiny), 9000)
    other = save_larger(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match="its tokens are not those of the model that learns"):
        load_critic_model(f"local:{other}", str(tiny), 4096)
    with pytest.raises(ValueError, match="none of reference, reward, smollm2 and local"):
        PPOConfig(critic="bigger")
