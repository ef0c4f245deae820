"""An LM that runs a transformers model in this process. Concurrent calls are answered in batches.

A worker waits until every caller is waiting, sorts the pending calls by length and runs them in
batches; the model runs once on the tokens that a batch's prompts share. The composition of batches
follows from the calls alone, so equal runs give equal texts.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from cai.errors import BackendError, UnansweredError, blame
from cai.lm.base import Sample, truncate_at_stop
from cai.lm.thoughts import cut_thoughts
from cai.modeling import generation
from cai.modeling.attention import Prefix
from cai.modeling.batching import MIN_SHARED_TOKENS, common_prefix_length
from cai.modeling.fast_paths import fast_paths
from cai.modeling.loading import fingerprint, load_model, window_of
from cai.modeling.precision import matmul_dtype
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat

MAX_BATCH_ROWS = 128
"""Rows a forward pass: beyond this the cost of a decoding step on a CPU grows in proportion."""
MAX_BATCH_TOKENS = 12_000
"""Prompt tokens a batch, which bounds memory: a small model's KV cache takes some 50 kB a token."""
MAX_CACHED_PREFIXES = 4
MIN_SAVED_TOKENS = 512
"""Prompt tokens that sharing must save to make up for decoding two batches instead of one."""


@dataclass(frozen=True)
class _SampleCall:
    ids: list[int]
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...]
    future: asyncio.Future[Sample]


@dataclass(frozen=True)
class _ChoiceCall:
    ids: list[int]
    options: tuple[tuple[int, ...], ...]
    future: asyncio.Future[list[float]]


class LocalLM:
    """A transformers model behind the LM protocol.

    Args:
        model: a causal model of `load_model`.
        renderer: its tokenizer and chat template.
        fingerprint: distinguishes it from other models.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        fingerprint: str,
        *,
        max_concurrency: int = MAX_BATCH_ROWS,
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.fingerprint = fingerprint
        self.max_concurrency = max_concurrency
        self._pending: list[_SampleCall | _ChoiceCall] = []
        self._worker: asyncio.Task[None] | None = None
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        future: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        ids = self.renderer.prompt_ids(chat)
        self._submit(_SampleCall(ids, max_tokens, temperature, seed, tuple(stop), future))
        return await future

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        options = tuple(tuple(self.renderer.text_ids(choice)) for choice in choices)
        self._submit(_ChoiceCall(self.renderer.prompt_ids(chat, prefill), options, future))
        return await future

    async def aclose(self) -> None:
        """Nothing to close: the model lives in this process."""

    # ---- gathering ----

    def _submit(self, call: _SampleCall | _ChoiceCall) -> None:
        max_length = window_of(self.model.config)
        new_tokens = call.max_tokens if isinstance(call, _SampleCall) else 1
        if len(call.ids) + new_tokens > max_length:
            raise UnansweredError(
                f"a prompt of {len(call.ids)} tokens does not fit "
                f"the model's window of {max_length}"
            )
        self._pending.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._pending:
            await self._wait_for_callers()
            calls, self._pending = self._pending, []
            sample_calls = [call for call in calls if isinstance(call, _SampleCall)]
            choice_calls = [call for call in calls if isinstance(call, _ChoiceCall)]
            for sample_batch in _make_batches(sample_calls):
                self._run_batch(sample_batch, self._sample_batch)
                await asyncio.sleep(0)
            for choice_batch in _make_batches(choice_calls):
                self._run_batch(choice_batch, self._choice_batch)
                await asyncio.sleep(0)

    async def _wait_for_callers(self) -> None:
        """Let every runnable task run until no further call is submitted."""
        num_pending = -1
        while num_pending != len(self._pending):
            num_pending = len(self._pending)
            for _ in range(4):
                await asyncio.sleep(0)

    def _run_batch(self, batch: list[Any], run: Callable[[list[Any]], Sequence[Any]]) -> None:
        active = [call for call in batch if not call.future.cancelled()]
        if not active:
            return
        try:
            with blame(BackendError, f"local model {self.fingerprint}"):
                results = run(active)
        except BackendError as error:
            for call in active:
                call.future.set_exception(error)
            return
        for call, result in zip(active, results, strict=True):
            call.future.set_result(result)

    # ---- batches ----

    def _shared_prefix(self, rows: Sequence[list[int]]) -> Prefix | None:
        """Keys and values of the prefix that all rows share.

        Only an exactly equal prefix is taken from the cache, so the numbers stay the same.
        """
        length = common_prefix_length(rows) if len(rows) > 1 else 0
        if length < MIN_SHARED_TOKENS or not fast_paths(self.model).attention:
            return None
        key = tuple(rows[0][:length])
        if key not in self._prefixes:
            self._prefixes[key] = generation.prefill_prefix(self.model, key)
            if len(self._prefixes) > MAX_CACHED_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(key)
        return self._prefixes[key]

    def _sample_batch(self, calls: list[_SampleCall]) -> list[Sample]:
        rows = [call.ids for call in calls]

        def has_stop_text(row: int, ids: list[int]) -> bool:
            stop = calls[row].stop
            return bool(stop) and truncate_at_stop(self.renderer.text(ids), stop)[1]

        generations = generation.generate(
            self.model,
            rows,
            max_tokens=[call.max_tokens for call in calls],
            temperatures=[call.temperature for call in calls],
            seeds=[call.seed for call in calls],
            stop_ids=frozenset({self.renderer.eos_token_id}),
            pad=self.renderer.pad_token_id,
            prefix=self._shared_prefix(rows),
            stop_when=has_stop_text,
        )
        samples = []
        for call, generated in zip(calls, generations, strict=True):
            text = truncate_at_stop(self.renderer.text(generated.ids), call.stop)[0]
            text, is_closed = cut_thoughts(text)
            samples.append(
                Sample(
                    text=text,
                    finished=generated.finished and is_closed,
                    prompt_tokens=len(call.ids),
                    completion_tokens=len(generated.ids),
                )
            )
        return samples

    def _choice_batch(self, calls: list[_ChoiceCall]) -> list[list[float]]:
        rows = [call.ids for call in calls]
        return generation.option_logprobs(
            self.model,
            rows,
            [call.options for call in calls],
            pad=self.renderer.pad_token_id,
            prefix=self._shared_prefix(rows),
        )


def _make_batches(calls: Sequence[Any]) -> list[list[Any]]:
    """Calls with a common prefix together, shortest first: similar lengths need little padding.

    A batch holds at most `MAX_BATCH_ROWS` rows and `MAX_BATCH_TOKENS` tokens beyond the prefix.
    """
    batches: list[list[Any]] = []
    for group in _group_by_prefix(calls):
        shared = common_prefix_length([call.ids for call in group])
        batch: list[Any] = []
        for call in sorted(group, key=lambda call: len(call.ids)):
            num_tokens = (len(batch) + 1) * (len(call.ids) - shared)
            if batch and (len(batch) == MAX_BATCH_ROWS or num_tokens > MAX_BATCH_TOKENS):
                batches.append(batch)
                batch = []
            batch.append(call)
        batches.append(batch)
    return batches


def _group_by_prefix(calls: Sequence[Any]) -> list[list[Any]]:
    """Calls grouped by how their prompts begin: two sets of few-shot examples are two prefixes.

    In lexical order neighbours share the most. A new group begins where neighbours share less than
    half of the usual length: the median over different neighbours. A group that would save less
    than it costs joins the group before it.
    """
    if not calls:
        return []
    ordered = sorted(calls, key=lambda call: call.ids)
    neighbours = list(itertools.pairwise(ordered))
    shared = [common_prefix_length([a.ids, b.ids]) for a, b in neighbours]
    differing = [
        length for length, (a, b) in zip(shared, neighbours, strict=True) if a.ids != b.ids
    ]
    usual = statistics.median(differing) if differing else 0
    groups = [ordered[:1]]
    for call, length in zip(ordered[1:], shared, strict=True):
        if length < usual / 2:
            groups.append([])
        groups[-1].append(call)
    merged = [groups[0]]
    for group in groups[1:]:
        if (len(group) - 1) * usual >= MIN_SAVED_TOKENS:
            merged.append(group)
        else:
            merged[-1] += group
    return merged


def load_local(name_or_path: str, *, max_concurrency: int = MAX_BATCH_ROWS) -> LocalLM:
    """Model and tokenizer from a folder or a hub id."""
    return LocalLM(
        load_model(name_or_path, matmul_dtype()),
        load_renderer(name_or_path),
        fingerprint(name_or_path),
        max_concurrency=max_concurrency,
    )
