"""Pretraining gradients in PPO's own steps (PPO-ptx, arXiv:2203.02155 section 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cai.data.text_files import text_blocks
from cai.errors import StoreError, blame
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.tokenization import Renderer
from cai.records import Prompt, chat_of
from cai.seeds import rng
from cai.train.distributed import local_micro_batches, local_share
from cai.train.ppo.actor import ForwardModel
from cai.train.ppo.config import PtxConfig
from cai.train.ppo.rollout import Rollout, response_hidden, response_tokens, token_logprobs

PtxText = tuple[list[int], list[int]]
"""Tokens of a prompt, and of the reply to it; or of a chunk of plain text, the first one and the
others.
"""
NO_PROMPT = Prompt(chat=chat_of(("user", "-")))


MAX_BYTES = 1 << 24
"""Of files of plain text that are kept, about; of more, blocks are drawn."""


def pretraining_chunks(
    paths: Sequence[Path], renderer: Renderer, length: int, seed: int
) -> list[PtxText]:
    """Files of plain text as chunks of at most `length` tokens, each predicted from its first one.

    Of files that are larger than MAX_BYTES together, as many blocks or rows as come to about that
    size are drawn by the seed.

    Raises:
        StoreError: a file cannot be read, as `file:line` where a line is wrong, or has no text.
    """
    with blame(StoreError, "ppo.ptx.files"):
        size = sum(path.stat().st_size for path in paths)
    chunks: list[PtxText] = []
    for name, path in enumerate(paths):
        is_empty = True
        for number, text in enumerate(text_blocks(path)):
            is_empty = False
            if size > MAX_BYTES and rng(seed, "ptx", name, number).random() * size > MAX_BYTES:
                continue
            ids = renderer.text_ids(text)
            parts = (ids[start : start + length] for start in range(0, len(ids), length))
            chunks += [(part[:1], part[1:]) for part in parts if len(part) > 1]
        if is_empty:
            raise StoreError(f"{path}: no text in it")
    return chunks


def sample_texts(
    texts: Sequence[PtxText], config: PtxConfig, seed: int, update: int, step: int
) -> list[Rollout]:
    """The texts of one optimizer step, drawn by (seed, update, step); none where the mix is off."""
    if not config.coef or not texts:
        return []
    drawn = rng(seed, "ptx", update, step).sample(
        range(len(texts)), min(config.batch_size, len(texts))
    )
    return [Rollout(NO_PROMPT, *texts[i], text="", finished=True) for i in drawn]


def ptx_losses(
    policy: ForwardModel, texts: list[Rollout], micro_batch_size: int
) -> Iterator[Tensor]:
    """This process's parts of the mean log loss on the texts' reply tokens, nats a token:
    `micro_batch_size` texts at a time.

    The parts of all processes sum to the mean over all tokens.
    """
    lengths = [len(text.ids) for text in texts]
    num_tokens = sum(len(text.response_ids) for text in texts)
    local = set(local_share(range(len(texts))))
    for indices in local_micro_batches(range(len(texts)), micro_batch_size, lengths):
        batch = [texts[i] for i in indices]
        hidden_NE = response_hidden(policy, batch, FrozenCache([]))
        logp_N = token_logprobs(
            hidden_NE, response_tokens(batch, policy.device), policy.lm_head, 1.0
        )
        num_local_tokens = sum(len(texts[i].response_ids) for i in indices if i in local)
        yield -logp_N.mean() * (num_local_tokens / num_tokens)
