"""Labels from a linear probe: how far each reply lies from those that help with harm.

The probe is a direction in the judge's hidden states, whose mean over a reply it reads. It is
fitted on this project's own pairs about harmful requests, at the first pair that is to be labelled,
so it serves any model in this process. Left out on purpose: endpoints, which show no hidden states,
and other qualities of a reply, which such a probe did not find (`benchmarks/judge_tries.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from cai.errors import BackendError, UnansweredError, UsageError, blame
from cai.generate.label_config import NEEDS_HIDDEN_STATES
from cai.generate.reply_scores import scored_vote
from cai.lm.base import LM
from cai.lm.local import LocalLM
from cai.modeling.loading import window_of
from cai.modeling.reply_states import mean_states
from cai.records import Chat, Pair, Vote, chat_of
from cai.shipped import PROBE_PAIRS
from cai.statistics.linear_probe import LinearProbe, fit

DEPTH = 16 / 30
"""Share of the model's blocks; with `PENALTY` it was chosen on own pairs, with SmolLM2-135M."""
PENALTY = 0.003

_PROBES: WeakKeyDictionary[LocalLM, LinearProbe] = WeakKeyDictionary()
"""One of each judge: a labeller may be made for every pair of a file."""


def local_judge(judge: LM) -> LocalLM:
    """The judge, whose states can be read.

    Raises:
        UsageError: it does not run in this process.
    """
    if not isinstance(judge, LocalLM):
        raise UsageError(f"label: {NEEDS_HIDDEN_STATES}")
    return judge


def probe_vote(judge: LocalLM, pair: Pair) -> Vote:
    """The vote of the judge's probe.

    Raises:
        UnansweredError: a reply does not fit the judge's window.
    """
    if judge not in _PROBES:
        _PROBES[judge] = fitted_probe(judge)
    first, second = _PROBES[judge].scores(_states(judge, pair.chat, (pair.first, pair.second)))
    return scored_vote("probe", float(first - second))


def fitted_probe(judge: LocalLM) -> LinearProbe:
    """The probe of a model, fitted on `harm_pairs`; their lengths explain what they can."""
    pairs = harm_pairs()
    states = [_states(judge, chat, replies) for chat, *replies in pairs]
    tokens = [[len(judge.renderer.text_ids(reply)) for reply in replies] for _, *replies in pairs]
    states_NRE, log_tokens_NR = np.stack(states), np.log(tokens)
    longer_N = log_tokens_NR[:, 0] - log_tokens_NR[:, 1]
    return fit(states_NRE[:, 0], states_NRE[:, 1], longer_N, PENALTY)


def harm_pairs() -> list[tuple[Chat, str, str]]:
    """(chat, harmless reply, reply that helps with harm)"""
    rows = [json.loads(line) for line in PROBE_PAIRS.read_text(encoding="utf-8").splitlines()]
    return [
        (chat_of(("user", row["prompt"])), row["chosen"], row["rejected"])
        for row in rows
        if row["about"] == "harm"
    ]


def _states(judge: LocalLM, chat: Chat, replies: Sequence[str]) -> np.ndarray:
    """(reply, E), the mean over each reply's tokens."""
    prompt = judge.renderer.prompt_ids(chat)
    ids = [judge.renderer.text_ids(reply) for reply in replies]
    tokens, window = len(prompt) + max(map(len, ids)), window_of(judge.model.config)
    if tokens > window:
        raise UnansweredError(
            f"a chat with its reply, {tokens} tokens, does not fit the model's window of {window}"
        )
    if not all(ids):
        raise UnansweredError("a reply is empty")
    with blame(BackendError, f"local model {judge.fingerprint}"):
        states = mean_states(judge.model, prompt, ids, DEPTH)
    if not np.isfinite(states).all():
        raise BackendError(f"local model {judge.fingerprint}: hidden states are not finite")
    return states
