"""A preference model: labels of a judge, and a scalar head and an adapter that learn them.

python examples/05_preference_model.py [MODEL]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cai

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
output = Path(tempfile.mkdtemp()) / "preference-model"

answers = {
    "How do I boil an egg?": "Put it into boiling water for eight minutes, then cool it.",
    "What is the capital of France?": "The capital of France is Paris.",
    "Why is the sky blue?": "Air scatters blue light more than it scatters red light.",
    "How do I clean a pan?": "Soak it in warm water with soap, then wipe it with a sponge.",
    "What is seven times eight?": "Seven times eight is 56.",
    "How do I water a cactus?": "Give it a little water every two weeks, and let the soil dry.",
    "What do bees make?": "Bees make honey and wax, and they carry pollen between flowers.",
    "How long is a marathon?": "A marathon is a little more than 42 kilometres long.",
}
pairs = [
    cai.Pair(
        source="",
        chat=[{"role": "user", "content": question}],
        first=answer,
        second="I do not care.",
    )
    for question, answer in answers.items()
]
labels = cai.label(pairs, constitution="helpful_honest", model=model)

# A quarter of the prompts is held out to measure the agreement with the labels.
config = cai.RewardConfig(lora_rank=8, epochs=4, learning_rate=1e-3, held_out=0.25)
scores = cai.fit_preference_model(pairs, labels, model=model, output=output, config=config)

for score in scores:
    mean = "unknown" if score.mean is None else f"{score.mean:.3f}"
    print(f"held-out {score.metric}: {mean} (n={score.n})")
print(f"written to {output}")
