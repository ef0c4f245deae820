"""Decoders of transformers, tiny and random, against transformers alone: texts, option
log-probabilities, sampling and LoRA's gradients. No list says which run on which path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_checks import ROWS, check_gradients, check_numbers, generate_all, measured
from architectures import KNOWN, WINDOW, random_decoder, save_decoder

from cai.errors import BackendError
from cai.modeling import gated_mlp, lora_targets, probe
from cai.modeling.fast_paths import FastPaths, fast_paths
from cai.modeling.gated_mlp import RecomputedGatedMLP
from cai.modeling.loading import load_model
from cai.modeling.lora import (
    adapter_parameters,
    merge_adapter_into,
    with_adapter,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known beforehand about a model."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("model_type", KNOWN)
def test_texts_and_log_probabilities_are_those_of_transformers(model_type: str) -> None:
    check_numbers(random_decoder(model_type), measured(random_decoder(model_type)))


ADAPTED = (
    "llama",
    "gpt2",
    "mistral",
    "cohere",
    "stablelm",
    "qwen3_moe",
    "deepseek_v3",
    "jamba",
    "qwen3_next",
    "falcon_h1",
    "gpt_oss",
    "gemma3_text",
    "ctrl",
    "falcon",
    "llama4_text",
    "laguna",
    "rwkv",
)
"""Dense, with transposed weights, sliding, scaled, without a prefix, experts, hybrid, with layers
in a sequence, adding in place to outputs, with a backbone under another name, and with shared
experts whose names peft converts.
"""


@pytest.mark.parametrize("model_type", ADAPTED)
def test_gradients_of_lora_are_those_of_plain_peft(model_type: str) -> None:
    check_gradients(lambda: random_decoder(model_type))


@pytest.mark.parametrize("model_type", ADAPTED)
def test_an_adapter_merges_into_a_copy(model_type: str) -> None:
    """The policy that samples is a plain model with the adapter's weights: the same texts."""
    base, copied = (measured(random_decoder(model_type)) for _ in range(2))
    model = with_adapter(base, "policy", 4, 1)
    for parameter in adapter_parameters(model, "policy"):
        torch.nn.init.normal_(parameter, 0, 0.3)
    before = [draw.ids for draw in generate_all(copied, ROWS, 0.0)]
    merge_adapter_into(copied, model, "policy")
    after = [draw.ids for draw in generate_all(copied, ROWS, 0.0)]
    assert after == [draw.ids for draw in generate_all(model.get_base_model(), ROWS, 0.0)]
    assert after != before


@pytest.mark.parametrize(
    ("model_type", "line"),
    [
        ("llama", None),
        ("mistral", "runs on transformers' own attention and cache: slower, equal results"),
        ("rwkv", "one prompt at a time (padding changes its results): slower, equal results"),
    ],
)
def test_a_model_is_measured_once(
    model_type: str,
    line: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is read again for the same weights, and a torn file is measured again."""
    folder = tmp_path / "model"
    save_decoder(model_type, folder)
    capsys.readouterr()
    first = load_model(str(folder))
    printed = capsys.readouterr().err
    assert (f"cai: model {folder}" in printed) == (line is not None)
    assert line is None or line in printed
    [file] = (tmp_path / "cache").glob("fast-paths-*.json")
    assert FastPaths(**json.loads(file.read_text())) == fast_paths(first)
    measurements: list[Any] = []
    measure = probe.measure

    def counted(model: Any) -> FastPaths:
        measurements.append(model)
        return measure(model)

    monkeypatch.setattr(probe, "measure", counted)
    again = load_model(str(folder))
    assert not measurements
    assert fast_paths(again) == fast_paths(first)
    assert generate_all(again, ROWS, 1.0) == generate_all(first, ROWS, 1.0)
    file.write_text("{")
    assert fast_paths(load_model(str(folder))) == fast_paths(first)
    assert len(measurements) == 1
    assert line is None or line not in capsys.readouterr().err, "one line a process"


def test_settings_are_left_as_they_were() -> None:
    """The measurement shortens windows meanwhile, and leaves neither hooks nor frozen weights."""
    model = random_decoder("mistral")
    model.get_input_embeddings().weight.requires_grad_(False)
    learns = [parameter.requires_grad for parameter in model.parameters()]
    measured(model)
    assert model.config.sliding_window == WINDOW
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_training_path_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers whose gradients differ are given back to transformers; sampling stays fast."""
    model = random_decoder("llama")
    backward = gated_mlp.GatedProduct.backward

    def wrong(ctx: Any, dy: Any) -> Any:
        dgate, dup, act = backward(ctx, dy)
        return dgate, 1.01 * dup, act

    monkeypatch.setattr(gated_mlp.GatedProduct, "backward", staticmethod(wrong))
    paths = probe.measure(model)
    assert paths == FastPaths(attention=True, frozen_blocks=True)
    assert paths.note() == "trains with some of transformers' own layers: slower, equal results"
    assert not any(isinstance(module, RecomputedGatedMLP) for module in model.modules())


def test_a_model_that_transformers_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    monkeypatch.setattr(model.model.norm, "forward", lambda hidden: hidden[:, 0, 0, 0])
    with pytest.raises(BackendError, match="transformers cannot run this model on plain rows"):
        probe.measure(model)


def test_lora_names_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A convolution is no linear layer, nothing calls `dt_proj`, and peft refuses `out_proj`."""
    lora_targets._print_once.cache_clear()
    model = random_decoder("mamba")
    capsys.readouterr()
    assert lora_targets.target_modules(model) == ["in_proj", "x_proj"]
    line = "cai: LoRA does not adapt conv1d.weight, dt_proj, out_proj\n"
    assert line in capsys.readouterr().err
