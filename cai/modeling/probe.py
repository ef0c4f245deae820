"""Which fast paths give a model's own numbers: tried on two short rows, never looked up by name.

The rows begin alike and are of different lengths, and windows of attention are made shorter than
the rows meanwhile. What transformers computes of each row alone is the truth: of the logits, step
by step, and of the gradients at the embeddings.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import BackendError
from cai.modeling import attention, plain_generation
from cai.modeling.batching import right_pad
from cai.modeling.decoding import DecodingBatch, prefill_prefix
from cai.modeling.fast_paths import FastPaths, backbone, set_fast_paths
from cai.modeling.frozen_cache import FrozenCache, blocks_of
from cai.modeling.gated_mlp import recompute_gated_mlps
from cai.modeling.logits import logit_head
from cai.modeling.precision import autocast, matmul_dtype
from cai.modeling.sampling import Responses
from cai.modeling.shared_prefix import shared_prefix_forward
from cai.modeling.skinny_linear import use_skinny_linears

STEPS = 2
"""Tokens of each row that are decoded one by one."""
SHARED_TOKENS = 4
LENGTHS = (9, 12)
"""Tokens of the rows: few, for each pass over them delays the start of a large model."""
SMALL_WINDOW = 3
WINDOW_NAMES = ("window", "window_size", "attention_chunk_size")
"""Ends of the names of settings that limit how far back attention reaches."""
RECORDING_DEVICES = ("cuda",)
"""Types of devices that record a decoding step (`recorded_step.py`)."""
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 0.15}
"""Root mean square difference as a share of the standard deviation. Rounding stays below half of
it; a lost prefix or window gives several times it.
"""


def measure(model: PreTrainedModel) -> FastPaths:
    """Try the fast paths on a model as transformers loaded it; it is left as the answer says.

    Raises:
        BackendError: transformers itself cannot run it on plain rows of tokens.
    """
    rows = probe_rows(model)
    try:
        with _small_windows(model):
            return _measure(model, rows)
    except _UnsuitedWindowError:
        return _measure(model, rows)


class _UnsuitedWindowError(Exception):
    """The model takes no other window than the one it was built with."""


def _measure(model: PreTrainedModel, rows: list[list[int]]) -> FastPaths:
    plain_attention = model.config._attn_implementation
    want = _plain_logits(model, rows)
    plain_states = _states_and_gradients(model, rows, 0)
    paths = _plain_paths(model, plain_states[: len(rows)], want)
    set_fast_paths(model, paths)
    originals = {module: type(module) for module in model.modules()}
    use_fast_layers(model)
    if use_attention(model, attention.ATTN_IMPLEMENTATION):
        paths = replace(paths, attention=_succeeds(partial(_decodes, model, rows, want)))
        recording = replace(paths, recorded_steps=True)
        if paths.attention and model.device.type in RECORDING_DEVICES:
            set_fast_paths(model, recording)
            if _succeeds(partial(_decodes, model, rows, want)):
                paths = recording
    for training_prefix, layers in ((True, True), (False, True), (False, False)):
        if training_prefix and not paths.attention:
            continue
        paths = replace(paths, training_prefix=training_prefix, layers=layers)
        if not layers:
            for module, original in originals.items():
                module.__class__ = original
        if not paths.attention:
            use_attention(model, plain_attention)
        set_fast_paths(model, paths)
        shared = SHARED_TOKENS if training_prefix else 0
        if _succeeds(partial(_trains, model, rows, shared, plain_states)):
            break
    paths = replace(paths, frozen_blocks=_succeeds(partial(_replays, model, rows)))
    if not paths.attention:
        batches = _succeeds(partial(_plain_decodes, model, rows, want))
        paths = replace(paths, batches=batches)
    set_fast_paths(model, paths)
    return paths


@torch.no_grad()
def measure_plain(model: PreTrainedModel) -> FastPaths:
    """What is to be known of a model that runs as transformers alone runs it, such as one that
    lies on several GPUs: how its logits follow from its states, and whether rows may be padded.

    Raises:
        BackendError: as for `measure`.
    """
    rows = probe_rows(model)
    want = [logits_TV.cpu() for logits_TV in _plain_logits(model, rows)]
    head: Any = model.get_output_embeddings()
    states = [
        plain_generation.hidden_rows(model, [row], row[0])[0].to(head.weight.device) for row in rows
    ]
    paths = _plain_paths(model, states, want)
    paths = replace(paths, batches=_succeeds(partial(_plain_decodes, model, rows, want)))
    set_fast_paths(model, paths)
    return paths


def apply(model: PreTrainedModel, paths: FastPaths) -> None:
    """Make a model compute as an earlier measurement of it found right."""
    if paths.attention:
        use_attention(model, attention.ATTN_IMPLEMENTATION)
    if paths.layers:
        use_fast_layers(model)
    set_fast_paths(model, paths)


def use_fast_layers(model: PreTrainedModel) -> None:
    use_skinny_linears(model)
    recompute_gated_mlps(model)


def use_attention(model: PreTrainedModel, name: str) -> bool:
    """Whether the model takes this attention."""
    if model.config._attn_implementation != name:
        try:
            model.set_attn_implementation(name)
        except (ValueError, AttributeError, ImportError):
            return False
    return bool(model.config._attn_implementation == name)


def probe_rows(model: PreTrainedModel) -> list[list[int]]:
    """Two rows of ordinary tokens with a beginning that they share."""
    stream = random.Random(0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    tokens = range(min(5, vocabulary - 1), min(vocabulary, 1000))
    shared = [stream.choice(tokens) for _ in range(SHARED_TOKENS)]
    # rows that differ from their first free token on
    return [
        [*shared, tokens[i], *(stream.choice(tokens) for _ in range(length - len(shared) - 1))]
        for i, length in enumerate(LENGTHS)
    ]


@contextlib.contextmanager
def _small_windows(model: PreTrainedModel) -> Iterator[None]:
    """Inside, attention reaches SMALL_WINDOW tokens back where the config sets a window."""
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}
    before = [
        (config, name, value)
        for config in configs.values()
        for name, value in vars(config).items()
        if name.endswith(WINDOW_NAMES) and type(value) is int and value > SMALL_WINDOW
    ]
    try:
        for config, name, _ in before:
            setattr(config, name, SMALL_WINDOW)
        yield
    except BackendError as error:
        raise (_UnsuitedWindowError() if before else error) from error
    finally:
        for config, name, value in before:
            setattr(config, name, value)


@torch.no_grad()
def _plain_logits(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits (T, V) of each row alone, as transformers computes them."""
    try:
        return [
            model(torch.tensor([list(row)], device=model.device), use_cache=False).logits[0].float()
            for row in rows
        ]
    except Exception as error:
        raise BackendError(
            f"transformers cannot run this model on plain rows of tokens: {error}"
        ) from error


@torch.no_grad()
def _plain_paths(model: PreTrainedModel, states: list[Tensor], want: list[Tensor]) -> FastPaths:
    """How the backbone's states become the logits."""
    for raw_logits in (True, False):
        paths = FastPaths(raw_logits=raw_logits)
        set_fast_paths(model, paths)
        if _succeeds(partial(_reads_states, model, states, want)):
            return paths
    raise BackendError(
        "its logits are not what its head computes of its last hidden states: "
        "it cannot be used here"
    )


@torch.no_grad()
def _reads_states(model: PreTrainedModel, states: list[Tensor], want: list[Tensor]) -> bool:
    head = logit_head(model)
    return _same(model, [head(states_TE.to(model.dtype)).float() for states_TE in states], want)


@torch.no_grad()
def _decodes(model: PreTrainedModel, rows: list[list[int]], want: list[Tensor]) -> bool:
    """Whether left-padded rows give `want` token by token, after a shared prefix and without it."""
    prompts = [row[:-STEPS] for row in rows]
    steps_TB = torch.tensor([row[-STEPS:] for row in rows], device=model.device).T
    for prefix in (prefill_prefix(model, rows[0][:SHARED_TOKENS]), None):
        batch = DecodingBatch(model, prompts, prefix, rows[0][0])
        got = [batch.logits()]
        for tokens_B in steps_TB:
            batch.step(tokens_B)
            got.append(batch.logits())
        if not _same(model, torch.stack(got, 1).unbind(0), _last(want)):
            return False
    return True


class _Forced(Responses):
    """Responses that are known beforehand: only the logits are of interest."""

    def force(self, tokens_BT: list[list[int]]) -> None:
        self.tokens_BT = tokens_BT
        self.seen: list[list[Tensor]] = [[] for _ in tokens_BT]

    def sample(self, rows: Sequence[int], logits_BV: Tensor) -> list[int]:
        tokens = []
        for row, logits_V in zip(rows, logits_BV, strict=True):
            tokens.append(self.tokens_BT[row][len(self.seen[row])])
            self.seen[row].append(logits_V)
            self.ids[row].append(tokens[-1])
        return tokens


@torch.no_grad()
def _plain_decodes(model: PreTrainedModel, rows: list[list[int]], want: list[Tensor]) -> bool:
    """Whether transformers' generation gives, for left-padded rows, what each row gives alone."""
    n = len(rows)
    forced = _Forced([STEPS + 1] * n, [0.0] * n, [0] * n, frozenset())
    forced.force([[*row[-STEPS:], row[0]] for row in rows])
    prompts = [row[:-STEPS] for row in rows]
    plain_generation.generate(model, prompts, forced, rows[0][0])
    return _same(model, [torch.stack(seen) for seen in forced.seen], _last(want))


def _last(want: list[Tensor]) -> list[Tensor]:
    return [logits_TV[-STEPS - 1 :] for logits_TV in want]


def _states_and_gradients(
    model: PreTrainedModel, rows: list[list[int]], shared: int
) -> list[Tensor]:
    """Hidden states of right-padded rows, and a loss's gradients at the embeddings: of the first
    SHARED_TOKENS tokens summed over rows, and of the rest.

    Args:
        shared: leading tokens that run once.
    """
    ids_BT, mask_BT = right_pad(rows, rows[0][0], model.device)
    embedded: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1].clone()  # some models scale it in place

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hook = model.get_input_embeddings().register_forward_hook(record)
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.enable_grad(), autocast(model.device):
            base = backbone(model)
            if shared:
                hidden_BTE = shared_prefix_forward(base, ids_BT, shared).float()
            else:
                hidden_BTE = base(input_ids=ids_BT, use_cache=False).last_hidden_state.float()
            weight = torch.linspace(-1, 1, hidden_BTE[0].numel(), device=model.device)
            loss = (hidden_BTE * weight.view_as(hidden_BTE[0]) * mask_BT[..., None]).sum()
            gradients = torch.autograd.grad(loss, embedded)
    finally:
        hook.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    first, *others = [gradient.float() for gradient in gradients]
    summed = first[:, :SHARED_TOKENS].sum(0)
    rest = others[0] if others else first[:, SHARED_TOKENS:]
    states = [states[: len(row)].detach() for states, row in zip(hidden_BTE, rows, strict=True)]
    return [*states, summed, rest]


def _trains(model: PreTrainedModel, rows: list[list[int]], shared: int, want: list[Tensor]) -> bool:
    return _same(model, _states_and_gradients(model, rows, shared), want)


@torch.no_grad()
def _replays(model: PreTrainedModel, rows: list[list[int]]) -> bool:
    """Whether the last block computes the same of the recorded outputs of the blocks below it."""
    ids_BT, _ = right_pad(rows, rows[0][0], model.device)
    cache = FrozenCache(blocks_of(model)[:-1])
    passes = []
    for _ in range(2):
        with cache.reuse(), autocast(model.device):
            passes.append(shared_prefix_forward(backbone(model), ids_BT, SHARED_TOKENS).float())
    return bool(cache.blocks) and _same(model, passes[1:], passes[:1])


def _same(model: PreTrainedModel, got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
    """Whether the numbers are equal but for rounding in the formats of the model's products."""
    is_float32 = model.dtype == matmul_dtype() == torch.float32
    tolerance = TOLERANCE[torch.float32 if is_float32 else torch.bfloat16]
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in want]:
        return False
    return all(_is_close(a, b, tolerance) for a, b in zip(got, want, strict=True))


def _is_close(got: Tensor, want: Tensor, tolerance: float) -> bool:
    spread, difference = want.float().std(), (got.to(want.device) - want).float()
    return bool(difference.square().mean().sqrt() <= tolerance * spread)


def _succeeds(check: Callable[[], bool]) -> bool:
    """Models fail in many ways on what they were not written for; each means: not this way."""
    try:
        return check()
    except Exception:
        return False
