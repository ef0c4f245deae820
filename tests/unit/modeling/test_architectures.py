"""Decoders of transformers, tiny and random, against transformers alone: texts, option
log-probabilities, sampling and LoRA's gradients. No list says which run on which path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KNOWN, WINDOW, random_decoder, save_decoder
from peft import get_peft_model
from plain_decoding import END, random_rows
from transformers import GenerationConfig

from cai.errors import BackendError
from cai.modeling import gated_mlp, lora_targets, probe
from cai.modeling.batching import right_pad
from cai.modeling.fast_paths import FastPaths, fast_paths
from cai.modeling.gated_mlp import RecomputedGatedMLP
from cai.modeling.generation import generate, option_logprobs, shared_prefix
from cai.modeling.loading import load_model
from cai.modeling.lora import (
    adapter_parameters,
    adapter_tensors,
    hidden_states,
    lm_head,
    lora_config,
    merge_adapter_into,
    set_adapter_tensors,
    with_adapter,
)
from cai.modeling.sampling import Generation

NEW_TOKENS = 6
SHARED = random_rows(20, seed=2)[0]
ROWS = random_rows(1, 25, 8, seed=1, head=SHARED)
"""Rows of 21 to 45 tokens, more and less than a window, that begin alike."""
OPTIONS = [[[5], [9, 4, 77]], [[250], [3, 3]], [[1, 2], [7]]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known beforehand about a model."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))


def measured(model: Any) -> Any:
    """The model as `load_model` would return it."""
    probe.measure(model)
    return model


def generate_all(model: Any, rows: Sequence[list[int]], temperature: float) -> list[Generation]:
    return generate(
        model,
        rows,
        max_tokens=[NEW_TOKENS] * len(rows),
        temperatures=[temperature] * len(rows),
        seeds=list(range(len(rows))),
        stop_ids=frozenset({END}),
        pad=END,
        prefix=shared_prefix(model, rows),
        record_logprobs=True,
    )


@torch.no_grad()
def plain_greedy(plain: Any, row: list[int]) -> list[int]:
    """What `generate` of transformers gives for the row alone."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=END, eos_token_id=END
    )
    ids_1T = torch.tensor([row])
    plain.generation_config = GenerationConfig()
    output = plain.generate(
        ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config
    )
    return output[0, len(row) :].tolist()


@torch.no_grad()
def plain_logps(plain: Any, row: list[int], reply: list[int]) -> torch.Tensor:
    """log P(token | what precedes it) of each token of `reply`, by one forward pass."""
    logits_TV = plain(torch.tensor([[*row, *reply]]), use_cache=False).logits[0, len(row) - 1 : -1]
    return logits_TV.log_softmax(-1).gather(-1, torch.tensor(reply)[:, None])[:, 0]


@pytest.mark.parametrize("model_type", KNOWN)
def test_texts_and_log_probabilities_are_those_of_transformers(model_type: str) -> None:
    plain, model = random_decoder(model_type), measured(random_decoder(model_type))
    greedy = generate_all(model, ROWS, 0.0)
    assert [draw.ids for draw in greedy] == [plain_greedy(plain, row) for row in ROWS]
    scores = option_logprobs(model, ROWS, OPTIONS, pad=END, prefix=shared_prefix(model, ROWS))
    want = [
        [float(plain_logps(plain, row, option).sum()) for option in options]
        for row, options in zip(ROWS, OPTIONS, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(want), atol=1e-4, rtol=0)
    for row, draw in zip(ROWS, generate_all(model, ROWS, 1.0), strict=True):
        want_T = plain_logps(plain, row, draw.ids)
        torch.testing.assert_close(torch.tensor(draw.logps), want_T, atol=1e-4, rtol=0)


ADAPTED = ("llama", "gpt2", "mistral", "cohere", "stablelm", "qwen3_moe", "deepseek_v3", "jamba")
"""Dense, with transposed weights, sliding, scaled, without a prefix, experts, and hybrid."""


@pytest.mark.parametrize("model_type", ADAPTED)
def test_gradients_of_lora_are_those_of_plain_peft(model_type: str) -> None:
    """Right-padded rows with a shared beginning, against each row alone through peft's layers."""
    base = measured(random_decoder(model_type))
    model = with_adapter(base, "policy", 4)
    config = lora_config(random_decoder(model_type), 4)
    config._custom_modules = None
    plain = get_peft_model(random_decoder(model_type), config, adapter_name="policy").eval()
    torch.manual_seed(1)
    for parameter in adapter_parameters(model, "policy"):
        torch.nn.init.normal_(parameter, 0, 0.1)
    set_adapter_tensors(plain, "policy", adapter_tensors(model, "policy"))
    ids_BT = right_pad(ROWS, END, base.device)[0]
    hidden_BTE = hidden_states(model, "policy", ids_BT)
    head = lm_head(model)
    loss = next_token_loss([head(hidden_BTE[i, : len(row)]) for i, row in enumerate(ROWS)])
    plain_loss = next_token_loss([plain(input_ids=torch.tensor([row])).logits[0] for row in ROWS])
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=0)
    gradients, plain_gradients = (
        torch.autograd.grad(value, adapter_parameters(m, "policy"))
        for value, m in ((loss, model), (plain_loss, plain))
    )
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)
    for gradient, plain_gradient in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(gradient, plain_gradient, atol=1e-5, rtol=1e-3)


def next_token_loss(logits: list[torch.Tensor]) -> torch.Tensor:
    losses = [
        torch.nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(row[1:]))
        for logits_TV, row in zip(logits, ROWS, strict=True)
    ]
    return torch.stack(losses).mean()


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
