"""Numbers of tokens of texts, as a model's tokenizer counts them."""

from __future__ import annotations

from collections.abc import Callable

from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.modeling.tokenization import load_renderer
from cai.store import digest


def token_counter(spec: str) -> Callable[[str], int]:
    """A function text -> number of tokens of the model that `spec` names.

    For an endpoint, whose tokenizer is unknown, four characters count as one token.
    """
    weights = local_model_name(spec)
    if weights is None:
        return lambda text: -(-len(text) // 4)
    renderer = load_renderer(resolve_model_path(weights))
    return lambda text: len(renderer.text_ids(text))


def tokenizer_digest(spec: str) -> str:
    """What decides the counts of `token_counter`."""
    weights = local_model_name(spec)
    if weights is None:
        return "4 characters a token"
    tokenizer = load_renderer(resolve_model_path(weights)).tokenizer
    return digest(tokenizer.backend_tokenizer.to_str())
