"""Which of this package's faster computations a loaded model uses, instead of transformers' own.

`cai.modeling.probe` measures this at load, and a model carries the answer from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from cai.modeling import attention

ATTRIBUTE = "cai_fast_paths"


@dataclass(frozen=True)
class FastPaths:
    """What gives the same numbers as transformers alone, and so may be used."""

    attention: bool = False
    """`attention.py` with the cache of `kv_cache.py` and the shared prefix, for sampling."""
    recorded_steps: bool = False
    """`recorded_step.py`, on a GPU; it needs `attention`."""
    training_prefix: bool = False
    """`shared_prefix.py`; it needs `attention`."""
    layers: bool = False
    """`skinny_linear.py` and `gated_mlp.py`."""
    frozen_blocks: bool = False
    """`frozen_cache.py`."""
    batches: bool = True
    """Left-padded rows give what each row gives alone. Else prompts are answered one by one."""
    raw_logits: bool = True
    """The head's outputs are the logits; else the model scales or caps them (`logits.py`)."""

    def note(self) -> str | None:
        """What is slower than usual, for the user; None: nothing."""
        if not self.attention:
            how = "" if self.batches else ", one prompt at a time (padding changes its results)"
            return f"runs on transformers' own attention and cache{how}: slower, equal results"
        if not (self.training_prefix and self.layers and self.frozen_blocks):
            return "trains with some of transformers' own layers: slower, equal results"
        return None


def backbone(model: Any) -> Any:
    """The model without its language-model head: token ids -> hidden states (B, T, E)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = base.base_model
    is_itself = inner is base and base.get_output_embeddings() is not None
    return _holder_of_embeddings(base) if is_itself else inner


def _holder_of_embeddings(base: Any) -> Any:
    """The backbone of a model that names it wrongly, as Llama 4's text model does."""
    embeddings = base.get_input_embeddings()
    holders = (child for child in base.children() if embeddings in child.modules())
    return next(holders, base)


def fast_paths(model: nn.Module) -> FastPaths:
    """What a model, or its backbone, computes with; of one that `load_model` did not load, by its
    attention.
    """
    base = backbone(model)
    is_ours = base.config._attn_implementation == attention.ATTN_IMPLEMENTATION
    unmeasured = FastPaths(is_ours, is_ours, is_ours, frozen_blocks=True)
    paths: FastPaths = getattr(base, ATTRIBUTE, unmeasured)
    return paths


def set_fast_paths(model: nn.Module, paths: FastPaths) -> None:
    """Note on the model what it computes with."""
    setattr(backbone(model), ATTRIBUTE, paths)


def hidden_width(model: Any) -> int:
    """Size of the states that the head reads; a few models project them, so configs mislead."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return int(base.get_output_embeddings().weight.shape[1])
