"""Numbers of tokens of texts, as a model's tokenizer counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.modeling.piece_counts import (
    UNCERTAIN,
    PieceCounts,
    counts_in_pieces,
    on_one_side,
)
from cai.modeling.tokenization import Renderer, load_renderer
from cai.store import digest


@dataclass(frozen=True)
class TokenCounter:
    """The number of tokens of a text; of many texts at once in less time.

    Args:
        renderer: of a model; None: its tokenizer is unknown, and four characters count as one.
    """

    renderer: Renderer | None

    def __call__(self, text: str) -> int:
        return -(-len(text) // 4) if self.renderer is None else len(self.renderer.text_ids(text))

    def each(self, texts: Sequence[str], least: int | None, most: int | None) -> list[int]:
        """The same of many texts. A number is exact only where that decides whether it is at least
        `least`, or at most `most`.
        """
        if self.renderer is None:
            return [self(text) for text in texts]
        if self._pieces is None:
            return self.renderer.text_lengths(texts)
        limits = (0 if least is None else least, UNCERTAIN if most is None else most)
        self.renderer.text_ids("")  # leaves the tokenizer without truncation and special tokens
        bounds = self._pieces.bounds(texts, *limits)
        unclear = [i for i, pair in enumerate(bounds) if not on_one_side(*pair, *limits)]
        lengths = [highest for _, highest in bounds]
        counted = self.renderer.text_lengths([texts[index] for index in unclear])
        for index, length in zip(unclear, counted, strict=True):
            lengths[index] = length
        return lengths

    @cached_property
    def _pieces(self) -> PieceCounts | None:
        if self.renderer is None or not counts_in_pieces(self.renderer.tokenizer):
            return None
        return PieceCounts(self.renderer.tokenizer)


def token_counter(spec: str) -> TokenCounter:
    """A function text -> number of tokens of the model that `spec` names.

    For an endpoint, whose tokenizer is unknown, four characters count as one token.
    """
    weights = local_model_name(spec)
    return TokenCounter(None if weights is None else load_renderer(resolve_model_path(weights)))


def tokenizer_digest(spec: str) -> str:
    """What decides the counts of `token_counter`."""
    weights = local_model_name(spec)
    if weights is None:
        return "4 characters a token"
    tokenizer = load_renderer(resolve_model_path(weights)).tokenizer
    return digest(tokenizer.backend_tokenizer.to_str())
