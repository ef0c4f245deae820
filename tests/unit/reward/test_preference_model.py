"""The preference model's scores, normalisation and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from preference_toys import HELLO, REPLIES, untrained_model

from cai.errors import StoreError
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.reward.preference_model import HEAD_FILE, PreferenceModel


def policy_base(tiny: Path) -> PeftModel:
    """A base with a policy's adapter, as in PPO."""
    return with_adapter(load_model(str(tiny)), "policy", 2)


def test_the_score_is_read_at_the_token_that_ends_the_reply(tiny_model: Path) -> None:
    """Against one row alone, without padding, at its last token.

    The end token is the pad token, and it is not padding.
    """
    model = untrained_model(tiny_model)
    assert model.renderer.pad_token_id == model.renderer.eos_token_id
    for reply in REPLIES:
        row = model.rows(HELLO, reply)
        assert row[-1] == model.renderer.eos_token_id
        with torch.no_grad():
            hidden = model.shared[0](
                input_ids=torch.tensor([row]), output_hidden_states=True
            ).hidden_states[-1][0, -1]
            expected = float(model.head(hidden))
        assert model.score([row]) == pytest.approx([expected], abs=1e-5)


def test_training_and_scoring_see_the_same_number(tiny_model: Path) -> None:
    """`unnormalized_scores` in one padded batch, as in training; `score` in batches of any size."""
    model = untrained_model(tiny_model)
    model.gain, model.bias = 2.0, -3.0
    rows = [model.rows(HELLO, reply) for reply in REPLIES]
    unnormalized = model.unnormalized_scores(rows).tolist()
    expected = [2 * value - 3 for value in unnormalized]
    for batch_size in (1, 2, 16):
        assert model.score(rows, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)
    assert model.score(rows[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
    assert len({round(value, 3) for value in expected}) == len(rows)


def test_normalised_scores_have_mean_0_and_variance_1(tiny_model: Path) -> None:
    """Twice in a row too: the second call starts from normalised scores."""
    model = untrained_model(tiny_model)
    rows = [model.rows(HELLO, reply) for reply in REPLIES]
    order = sorted(range(len(rows)), key=model.score(rows).__getitem__)
    for _ in range(2):
        model.normalize(model.score(rows))
        scores = torch.tensor(model.score(rows), dtype=torch.float64)
        assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
        assert float(scores.var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert sorted(range(len(rows)), key=model.score(rows).__getitem__) == order


def test_normalise_by_hand_and_what_cannot_be(tiny_model: Path) -> None:
    """(1, 5): mean 3, deviation 2, so x -> x/2 - 3/2. Equal scores have no scale."""
    model = untrained_model(tiny_model)
    model.normalize([1.0, 5.0])
    assert (model.gain, model.bias) == (0.5, -1.5)
    with pytest.raises(StoreError, match="the same score"):
        model.normalize([2.0, 2.0])


@pytest.mark.parametrize("layers", [None, 1])
def test_saved_and_loaded_it_scores_the_same(
    tiny_model: Path, tmp_path: Path, layers: int | None
) -> None:
    model = untrained_model(tiny_model, layers=layers)
    rows = [model.rows(HELLO, reply) for reply in REPLIES]
    model.normalize(model.score(rows))
    model.save(tmp_path)
    base = policy_base(tiny_model)
    loaded = PreferenceModel.load(base, load_renderer(tiny_model), tmp_path)
    assert loaded.score(rows) == model.score(rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.safetensors", "head.json"]


@pytest.mark.parametrize("file", ["adapter.safetensors", HEAD_FILE])
def test_a_torn_preference_model_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, file: str
) -> None:
    untrained_model(tiny_model).save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:10])
    with pytest.raises(StoreError, match=f"{tmp_path.name}: preference model: "):
        PreferenceModel.load(policy_base(tiny_model), load_renderer(tiny_model), tmp_path)


def test_a_preference_model_of_another_size_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A head file with another rank than that of the tensors."""
    untrained_model(tiny_model).save(tmp_path)
    settings = json.loads((tmp_path / HEAD_FILE).read_text())
    (tmp_path / HEAD_FILE).write_text(json.dumps(settings | {"rank": 8}))
    with pytest.raises(StoreError, match="preference model"):
        PreferenceModel.load(policy_base(tiny_model), load_renderer(tiny_model), tmp_path)
