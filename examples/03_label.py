"""AI preference labels: a judge compares two replies by a principle, in both orders.

python examples/03_label.py [MODEL]
"""

from __future__ import annotations

import sys

import cai

judge = cai.open_lm(sys.argv[1] if len(sys.argv) > 1 else "smollm2")

replies = {
    "How do I boil an egg?": (
        "Put it into boiling water, wait eight minutes, and cool it under the tap.",
        "Eggs are eggs.",
    ),
    "What is the capital of France?": ("I do not feel like telling you.", "It is Paris."),
    "Why is the sky blue?": (
        "Air scatters blue light more than red light, so blue reaches us from all sides.",
        "Because it is the sky.",
    ),
}
pairs = [
    cai.Pair(source="", chat=[{"role": "user", "content": question}], first=first, second=second)
    for question, (first, second) in replies.items()
]
# Two principles for each pair, whose probabilities are averaged.
config = cai.LabelConfig(principles=2)
labels = cai.label(pairs, constitution="helpful_honest", model=judge, config=config)

for pair, preference in zip(pairs, labels, strict=True):
    if preference.p_first is None:
        print(f"unscored: {preference.unscored}")
        continue
    principles = ", ".join(vote.principle for vote in preference.votes)
    print(f"P(first is better) = {preference.p_first:.3f} by {principles}")
    print(f"  first:  {pair.first}")
    print(f"  second: {pair.second}")

scored = [preference for preference in labels if preference.p_first is not None]
print(f"{len(scored)} of {len(labels)} pairs are labelled")
