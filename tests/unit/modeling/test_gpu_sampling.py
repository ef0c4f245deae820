"""Sampling as on a GPU, on the CPU: several tokens between two looks of the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import random_decoder
from torch.utils._python_dispatch import TorchDispatchMode

from cai.modeling import generation, probe
from cai.modeling.decoding import DecodingBatch, prefill_prefix
from cai.modeling.fast_paths import fast_paths, set_fast_paths
from cai.modeling.kv_cache import SPARE_TOKENS
from cai.modeling.loading import load_model
from cai.modeling.recorded_step import RecordedStep
from cai.modeling.sampling import Generation, Responses

ROWS = [[10, 20, 30, 40], [10, 20], [5, 6, 7, 8, 9, 10, 11]]
LIMITS = [13, 5, 13]
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
"""What makes the host wait for a GPU: a number read, or a shape that follows from contents."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_model(str(tiny_model))


class Waits(TorchDispatchMode):
    """Counts the operations that wait, and copies from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITING or (name.startswith("aten::index") and _has_mask(args)):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)


def generate(model: Any, **changes: Any) -> list[Generation]:
    settings: dict[str, Any] = {
        "max_tokens": LIMITS,
        "temperatures": [0.9, 0.0, 1.1],
        "seeds": [1, 2, 3],
        "stop_ids": frozenset({257}),
        "pad": 257,
        "record_logprobs": True,
    }
    return generation.generate(model, ROWS, **(settings | changes))


def test_blocks_of_tokens_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of other limits and temperatures, with a stop text at the fourth token of one of them:
    the same tokens and log-probabilities, whether the host looks at every token or at every eighth.
    """
    fourth = generate(model)[0].ids[3]
    stop = {"stop_when": lambda row, ids: row == 0 and ids[-1] == fourth}
    every, every_stopped = generate(model), generate(model, **stop)
    steps = Responses.steps
    monkeypatch.setattr(Responses, "steps", lambda self, rows, most: steps(self, rows, 8))
    assert [g.ids for g in generate(model)] == [g.ids for g in every]
    assert [g.ids for g in generate(model, **stop)] == [g.ids for g in every_stopped]
    assert len(every_stopped[0].ids) <= 4
    assert every_stopped[0].finished
    for got, want in zip(generate(model), every, strict=True):
        assert got.logps == pytest.approx(want.logps, abs=1e-5)
        assert len(got.logps or []) == len(got.ids)


@pytest.fixture
def recorded_model(tiny_model: Path) -> Any:
    """Its steps are those that a GPU records, which a CPU runs one by one."""
    model = load_model(str(tiny_model))
    set_fast_paths(model, replace(fast_paths(model), recorded_steps=True))
    return model


def test_steps_of_fixed_shape_change_nothing(model: Any, recorded_model: Any) -> None:
    """Seven rows of which one ends after the other, past the first columns of the cache, with a
    prefix that they share and without: the same tokens and log-probabilities.
    """
    shared = list(range(40, 60))
    rows = [[*shared, *range(i, 2 * i + 1)] for i in range(7)]
    settings: dict[str, Any] = {
        "max_tokens": [2 * SPARE_TOKENS + 5, 3, SPARE_TOKENS + 1, 1, 40, 9, 2 * SPARE_TOKENS],
        "temperatures": [0.9, 0.0, 1.1, 0.7, 0.0, 1.0, 0.8],
        "seeds": range(7),
        "stop_ids": frozenset({257}),
        "pad": 257,
        "record_logprobs": True,
    }
    for with_prefix in (True, False):
        results = []
        for each in (model, recorded_model):
            prefix = prefill_prefix(each, shared) if with_prefix else None
            results.append(generation.generate(each, rows, prefix=prefix, **settings))
        want, got = results
        assert [g.ids for g in got] == [g.ids for g in want]
        for a, b in zip(got, want, strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "cohere"])
def test_recording_is_measured_at_load(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that scales its logits (Cohere); a step that decodes something else is not
    recorded.
    """
    assert not probe.measure(random_decoder(model_type)).recorded_steps
    monkeypatch.setattr(probe, "RECORDING_DEVICES", ("cpu",))
    measured = probe.measure(random_decoder(model_type))
    assert measured.recorded_steps
    assert measured.raw_logits == (model_type == "llama")
    step = RecordedStep.__call__
    monkeypatch.setattr(RecordedStep, "__call__", lambda self, ids_B: 2 * step(self, ids_B.flip(0)))
    measured = probe.measure(random_decoder(model_type))
    assert measured.attention
    assert not measured.recorded_steps


def test_addresses_stay_between_recordings(recorded_model: Any) -> None:
    """What a recording reads and writes is at the same place in every step, until the cache has no
    free column; the next recording goes on from there.
    """
    batch = DecodingBatch(recorded_model, ROWS, None, 257)
    tokens_B = torch.tensor([1, 2, 3])
    recordings, addresses = [], set()
    with torch.no_grad():
        for _ in range(SPARE_TOKENS + 1):
            batch.step(tokens_B)
            step = batch.recorded
            assert step is not None
            if not recordings or recordings[-1] is not step:
                recordings.append(step)
            state = (step.ids_B, step.mask_BC, step.position_B, step.column_1)
            buffers = [t for layer in batch.cache.layers for t in layer.buffers]
            addresses.add((id(step), *(t.data_ptr() for t in (*state, *buffers))))
    assert len(recordings) == len(addresses) == 2
    assert int(recordings[1].column_1) == recordings[1].length == 7 + SPARE_TOKENS + 1


def test_rows_are_dropped_from_a_recording_when_half_have_ended(recorded_model: Any) -> None:
    batch = DecodingBatch(recorded_model, [[1, 2]] * 5, None, 257)
    assert [batch.is_worth_dropping(n) for n in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize("is_recorded", [False, True])
def test_no_step_waits_for_the_device(tiny_model: Path, is_recorded: bool) -> None:
    """Eight tokens of each row, sampled with log-probabilities: no operation reads a number back
    or has a shape that follows from what a tensor holds.
    """
    model = load_model(str(tiny_model))
    set_fast_paths(model, replace(fast_paths(model), recorded_steps=is_recorded))
    batch = DecodingBatch(model, ROWS, None, 257)
    responses = Responses([8] * 3, [0.9, 0.0, 1.1], [1, 2, 3], frozenset(), record_logprobs=True)
    with torch.no_grad(), Waits() as waits:
        generation._sample_steps(batch, responses, range(3), 8)
    assert waits.names == []
    assert [len(ids) for ids in responses.ids] == [8, 8, 8]


def test_the_counter_sees_waits() -> None:
    numbers = torch.tensor([1.0, 2.0])
    with Waits() as waits:
        assert bool((numbers > 0).any())
        _ = numbers[numbers > 1]
        float(numbers[0])
    assert len(waits.names) >= 3


def test_a_response_of_no_tokens_has_one(model: Any) -> None:
    """A limit of 0 still samples a token, as on a CPU: the loop ends."""
    assert [len(g.ids) for g in generate(model, max_tokens=[0, 1, 2], stop_ids=frozenset())] == [
        1,
        1,
        2,
    ]
