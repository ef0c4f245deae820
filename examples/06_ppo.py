"""PPO with KL control on a reward that is a plain function.

python examples/06_ppo.py [MODEL]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cai

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
folder = Path(tempfile.mkdtemp())


def brevity(rollouts):
    """The reward: one point less for every ten words."""
    return {"brevity": [-len(rollout.text.split()) / 10 for rollout in rollouts]}


topics = ["the sea", "a garden", "winter", "a train", "bread", "the moon", "music", "a river"]
prompts = [
    cai.Prompt(chat=[{"role": "user", "content": f"Say something about {topic}."}])
    for topic in topics
]
config = cai.PPOConfig(
    num_updates=4,
    lora_rank=8,
    rollout={"prompts_per_update": 8, "responses_per_prompt": 2, "max_new_tokens": 24},
    optimization={"num_minibatches": 2, "learning_rate": 1e-3},
    kl={"coef": 0.02},
)
trainer = cai.PPOTrainer.from_pretrained(model, brevity, config)
history = trainer.train(prompts, folder)
trainer.save_policy(folder / "policy")

# `kl` is the distance from the model at the start, in nats per response.
for metrics in history:
    print(f"update {metrics['update']}: reward {metrics['reward']:.3f}, kl {metrics['kl']:.3f}")
change = history[-1]["reward"] - history[0]["reward"]
print(f"change of the reward: {change:+.3f}; policy in {folder / 'policy'}")
