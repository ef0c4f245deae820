"""What fits the policy's window: a longer row would be cut, or seen at untrained positions."""

from __future__ import annotations

from collections.abc import Sequence

from cai.errors import TrainError
from cai.modeling.tokenization import Renderer
from cai.records import Prompt
from cai.train.ppo.ptx import PtxText


def within_window(
    prompts: Sequence[Prompt],
    texts: Sequence[PtxText],
    renderer: Renderer,
    max_new_tokens: int,
    window: int,
) -> tuple[list[Prompt], list[PtxText], dict[str, int]]:
    """(prompts that fit, texts that fit, how many of each do not, where any)."""
    kept = prompts_within(prompts, renderer, max_new_tokens, window)
    kept_texts = texts_within(texts, window)
    counts = {
        "too_long_prompts": len(prompts) - len(kept),
        "too_long_texts": len(texts) - len(kept_texts),
    }
    return kept, kept_texts, {name: count for name, count in counts.items() if count}


def prompts_within(
    prompts: Sequence[Prompt], renderer: Renderer, max_new_tokens: int, window: int
) -> list[Prompt]:
    """The prompts that fit the window with a response of `max_new_tokens`.

    Raises:
        TrainError: there are prompts, and none of them fits.
    """
    room = window - max_new_tokens
    kept = [prompt for prompt in prompts if len(renderer.prompt_ids(prompt.chat)) <= room]
    if prompts and not kept:
        raise TrainError(
            f"ppo: none of {len(prompts)} prompts fits the model's window of {window} tokens with "
            f"a response of {max_new_tokens}: lower ppo.rollout.max_new_tokens, or give "
            "shorter prompts"
        )
    return kept


def texts_within(texts: Sequence[PtxText], window: int) -> list[PtxText]:
    """The fine-tuning texts that fit the window.

    Raises:
        TrainError: there are texts, and none of them fits.
    """
    kept = [(prompt, reply) for prompt, reply in texts if len(prompt) + len(reply) <= window]
    if texts and not kept:
        raise TrainError(
            f"ppo.ptx: none of {len(texts)} texts fits the model's window of {window} tokens"
        )
    return kept
