"""An LM on this machine's transformers. Concurrent calls are gathered and answered in batches.

A worker waits until every caller is waiting, sorts what is pending by length and runs it in batches; the tokens that a batch's
prompts share are read once. Which calls share a batch follows from the calls alone, so equal runs give equal texts.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from cai.errors import BackendError, UnansweredError, blame
from cai.lm.base import Sample, truncate_at_stop
from cai.modeling import generation
from cai.modeling.attention import Prefix
from cai.modeling.batching import MIN_SHARED_TOKENS, common_prefix
from cai.modeling.loading import fingerprint, load_model
from cai.modeling.precision import matmul_dtype
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat

BATCH = 128
"""Rows a forward pass: past this a decoding step on CPU costs in proportion."""
TOKENS = 12_000
"""Prompt tokens a forward pass, which bounds its memory: about 50 kB each for keys and values of a small model."""
KEPT_PREFIXES = 4
SAVED_TOKENS = 512
"""Not to read so many tokens of prompts pays for decoding two batches instead of one."""


@dataclass(frozen=True)
class _Draw:
    ids: list[int]
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...]
    answer: asyncio.Future[Sample]


@dataclass(frozen=True)
class _Choice:
    ids: list[int]
    options: tuple[tuple[int, ...], ...]
    answer: asyncio.Future[list[float]]


class LocalLM:
    """A transformers model behind the LM protocol.

    Args:
        model: any causal model whose attention is set to `cai.modeling.attention.NAME`.
        renderer: its tokenizer and chat template.
        fingerprint: what distinguishes it from others.
    """

    def __init__(self, model: PreTrainedModel, renderer: Renderer, fingerprint: str, *, max_concurrency: int = BATCH) -> None:
        self.model, self.renderer, self.fingerprint, self.max_concurrency = model, renderer, fingerprint, max_concurrency
        self._pending: list[_Draw | _Choice] = []
        self._worker: asyncio.Task[None] | None = None
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        future: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._submit(_Draw(self.renderer.prompt_ids(chat), max_tokens, temperature, seed, tuple(stop), future))
        return await future

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        options = tuple(tuple(self.renderer.text_ids(choice)) for choice in choices)
        self._submit(_Choice(self.renderer.prompt_ids(chat, prefill), options, future))
        return await future

    async def aclose(self) -> None:
        """Nothing to close: the model lives in this process."""

    # ---- gathering ----

    def _submit(self, call: _Draw | _Choice) -> None:
        room = int(getattr(self.model.config, "max_position_embeddings", 1 << 30))
        need = len(call.ids) + (call.max_tokens if isinstance(call, _Draw) else 1)
        if need > room:
            raise UnansweredError(f"a prompt of {len(call.ids)} tokens does not fit the model's window of {room}")
        self._pending.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._pending:
            seen = -1
            while seen != len(self._pending):  # let every runnable caller run until all of them wait for us
                seen = len(self._pending)
                for _ in range(4):
                    await asyncio.sleep(0)
            calls, self._pending = self._pending, []
            draws = [c for c in calls if isinstance(c, _Draw)]
            choices = [c for c in calls if isinstance(c, _Choice)]
            for batch in _batches(draws):
                self._run_batch(batch, self._sample_batch)
                await asyncio.sleep(0)
            for batch in _batches(choices):
                self._run_batch(batch, self._choice_batch)
                await asyncio.sleep(0)

    def _run_batch(self, batch: list[Any], run: Any) -> None:
        live = [call for call in batch if not call.answer.cancelled()]
        if not live:
            return
        try:
            with blame(BackendError, f"local model {self.fingerprint}"):
                answers = run(live)
        except BackendError as error:
            for call in live:
                call.answer.set_exception(error)
            return
        for call, answer in zip(live, answers, strict=True):
            call.answer.set_result(answer)

    # ---- batches ----

    def _prefix(self, rows: Sequence[list[int]]) -> Prefix | None:
        """What all rows begin with, read once. Only an exactly equal prefix is taken from memory: the numbers stay the same."""
        length = common_prefix(rows) if len(rows) > 1 else 0
        if length < MIN_SHARED_TOKENS:
            return None
        key = tuple(rows[0][:length])
        if key not in self._prefixes:
            self._prefixes[key] = generation.prefill_prefix(self.model, key)
            if len(self._prefixes) > KEPT_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(key)
        return self._prefixes[key]

    def _sample_batch(self, calls: list[_Draw]) -> list[Sample]:
        rows = [call.ids for call in calls]

        def stop_when(row: int, ids: list[int]) -> bool:
            return bool(calls[row].stop) and truncate_at_stop(self.renderer.text(ids), calls[row].stop)[1]

        draws = generation.generate(
            self.model,
            rows,
            max_tokens=[call.max_tokens for call in calls],
            temperatures=[call.temperature for call in calls],
            seeds=[call.seed for call in calls],
            stop_ids=frozenset({self.renderer.stop_id}),
            pad=self.renderer.pad_id,
            prefix=self._prefix(rows),
            stop_when=stop_when,
        )
        return [
            Sample(
                text=truncate_at_stop(self.renderer.text(draw.ids), call.stop)[0],
                finished=draw.finished,
                prompt_tokens=len(call.ids),
                completion_tokens=len(draw.ids),
            )
            for call, draw in zip(calls, draws, strict=True)
        ]

    def _choice_batch(self, calls: list[_Choice]) -> list[list[float]]:
        rows = [call.ids for call in calls]
        return generation.option_logprobs(
            self.model, rows, [call.options for call in calls], pad=self.renderer.pad_id, prefix=self._prefix(rows)
        )


def _batches(calls: list[Any]) -> list[list[Any]]:
    """Calls with like beginnings together, shortest first: like lengths waste little padding.

    At most `BATCH` rows and `TOKENS` tokens beyond what all share.
    """
    batches: list[list[Any]] = []
    for family in _group_by_prefix(calls):
        shared, start = common_prefix([call.ids for call in family]), len(batches)
        for call in sorted(family, key=lambda call: len(call.ids)):
            last = batches[-1] if len(batches) > start else None
            if last is None or len(last) == BATCH or (len(last) + 1) * (len(call.ids) - shared) > TOKENS:
                batches.append(last := [])
            last.append(call)
    return batches


def _group_by_prefix(calls: list[Any]) -> list[list[Any]]:
    """Calls by what they begin with: two sets of few-shot examples are two prefixes, each to be read once.

    In lexical order neighbours share the most. A new family begins where they share less than half of what different neighbours
    usually do; one that would save less than it costs stays with the family before it.
    """
    ordered = sorted(calls, key=lambda call: call.ids)
    shared = [common_prefix([a.ids, b.ids]) for a, b in itertools.pairwise(ordered)]
    differing = [n for n, (a, b) in zip(shared, itertools.pairwise(ordered), strict=True) if a.ids != b.ids]
    usual = statistics.median(differing) if differing else 0
    families = [ordered[:1]] if ordered else []
    for call, length in zip(ordered[1:], shared, strict=True):
        if length < usual / 2:
            families.append([])
        families[-1].append(call)
    worth = [families[0]] if families else []
    for family in families[1:]:
        if (len(family) - 1) * usual >= SAVED_TOKENS:
            worth.append(family)
        else:
            worth[-1] += family
    return worth


def load_local(where: str, *, max_concurrency: int = BATCH) -> LocalLM:
    """Model and tokenizer from a folder or a hub id."""
    return LocalLM(load_model(where, matmul_dtype()), load_renderer(where), fingerprint(where), max_concurrency=max_concurrency)
