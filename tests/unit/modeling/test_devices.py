"""Devices and formats as on GPUs, with the calls to a device replaced: no GPU is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cai.lm.local import load_local
from cai.modeling import loading, precision
from cai.modeling.fast_paths import fast_paths
from cai.modeling.loading import load_frozen, load_model
from cai.modeling.lora import adapter_parameters, hidden_states, merge_adapter_into, with_adapter
from cai.records import chat_of

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 70, 80], [10, 20, 30, 9, 8, 7, 6, 5]])


def random_adapter(base: Any) -> Any:
    torch.manual_seed(1)
    model = with_adapter(base, "policy", 4)
    with torch.no_grad():
        for parameter in adapter_parameters(model, "policy"):
            parameter.normal_(0, 0.1)
    return model


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Products in bfloat16, and so the matrices that nothing learns in."""
    monkeypatch.setenv(precision.PRECISION_VARIABLE, "bfloat16")
    monkeypatch.setattr(loading, "frozen_dtype", lambda: torch.bfloat16)
    precision.matmul_dtype.cache_clear()
    yield
    precision.matmul_dtype.cache_clear()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_short_matrices_give_the_same_numbers(tiny_model: Path) -> None:
    """Under an adapter, and of the adapter's gradients: what is stored in bfloat16 is what every
    pass would convert to. Embeddings, norms and adapter stay float32.
    """
    long = random_adapter(load_model(str(tiny_model)))
    short = random_adapter(load_frozen(str(tiny_model)))
    formats = {name: p.dtype for name, p in short.named_parameters()}
    up_proj = "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"
    assert formats[up_proj] == torch.bfloat16
    for name, dtype in formats.items():
        if "base_layer" not in name:
            assert dtype == torch.float32, name
    assert short.dtype == torch.float32
    gradients = []
    for model in (long, short):
        hidden_BTE = hidden_states(model, "policy", IDS)
        assert hidden_BTE.dtype == torch.float32
        parameters = adapter_parameters(model, "policy")
        gradients.append(torch.autograd.grad(hidden_BTE.square().sum(), parameters))
        with torch.no_grad():
            gradients[-1] += (hidden_states(model, "policy", IDS), hidden_states(model, None, IDS))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_merged_policy_keeps_all_digits(tiny_model: Path) -> None:
    """The base's own float32 weights plus the adapter's product, though the base was shortened."""
    merged, plain = load_model(str(tiny_model)), load_model(str(tiny_model))
    model = random_adapter(load_frozen(str(tiny_model)))
    merge_adapter_into(merged, model, "policy")
    name = "model.layers.1.self_attn.q_proj"
    delta = model.get_base_model().get_submodule(name).get_delta_weight("policy").detach()
    want = plain.get_submodule(name).weight + delta
    torch.testing.assert_close(merged.get_submodule(name).weight, want, atol=0, rtol=0)
    assert float(delta.abs().max()) > 0


def test_on_a_cpu_all_is_float32(tiny_model: Path) -> None:
    assert {p.dtype for p in load_frozen(str(tiny_model)).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("gpus", "free", "processes", "want"),
    [
        (2, 100_000, "1", "auto"),
        (2, 1_000_000, "1", None),
        (1, 100, "1", None),
        (2, 100, "2", None),
    ],
)
def test_a_model_is_spread_only_where_it_does_not_fit(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    free: int,
    processes: str,
    want: str | None,
) -> None:
    """26,848 parameters are 107,392 bytes: more than 80 % of 100,000."""
    monkeypatch.setattr(loading, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(loading, "free_bytes", lambda: free)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert loading._device_map(str(tiny_model), torch.float32) == want


def test_a_cpu_spreads_nothing(tiny_model: Path) -> None:
    assert loading._device_map(str(tiny_model), torch.float32) is None


def test_a_spread_model_answers_the_same(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """accelerate lays it out, here over one CPU; it runs as transformers alone runs it."""

    def answers() -> Any:
        lm = load_local(str(tiny_model))
        chats = [chat_of(("user", "hello " * i)) for i in range(1, 4)]

        async def work() -> Any:
            samples = await asyncio.gather(
                *(lm.sample(c, max_tokens=6, temperature=0.8, seed=1) for c in chats)
            )
            scores = await asyncio.gather(*(lm.choice_logprobs(c, ("a", "no")) for c in chats))
            return [sample.text for sample in samples], scores

        return lm, *asyncio.run(work())

    _, texts, scores = answers()
    monkeypatch.setattr(loading, "_device_map", lambda *_: {"": "cpu"})
    loading._print_once.cache_clear()
    lm, spread_texts, spread_scores = answers()
    assert not fast_paths(lm.model).attention
    assert fast_paths(lm.model).batches
    assert spread_texts == texts
    for got, want in zip(spread_scores, scores, strict=True):
        assert got == pytest.approx(want, abs=1e-4)
    assert "runs on transformers' own attention and cache" in capsys.readouterr().err
