"""The card of a preference model."""

from __future__ import annotations

from report_toys import score

from cai.report.cards import preference_card
from cai.store import Manifest


def test_a_preference_models_card() -> None:
    """Scores with interval and count, a dash for unknown ones, the origin from the manifest."""
    manifest = Manifest(
        stage="label",
        provenance={"constitution": "toy 1", "judge": "abc", "seed": "7"},
        versions={"cai": "0.1.0"},
    )
    scores = [score("reward.agreement", 0.65), score("reward.log_loss", None)]
    text = preference_card(
        "lora", "soft", 40, scores, manifest, "toy", "`smollm2`", "that model's replies"
    ).content
    assert "(`safetensors`) on `smollm2`. The score" in text
    assert "mean 0 and variance 1 over that model's replies." in text
    assert "library_name: cai" in text.split("---")[1]
    assert "Trained on 40 pairs with soft labels" in text
    assert "| reward.agreement | 0.650 | [0.530, 0.760] | 96 |" in text
    assert "| reward.log_loss | – | – | 96 |" in text
    assert "| label | toy 1 | abc | 7 |" in text
