"""An LM that runs a transformers model in this process. Concurrent calls are answered in batches.

A worker waits until every caller is waiting, sorts the pending calls by length and runs them in
batches; the model runs once on the tokens that a batch's prompts share. The composition of batches
follows from the calls alone, so equal runs give equal texts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from cai.errors import BackendError, UnansweredError, blame
from cai.lm.base import Sample, truncate_at_stop
from cai.lm.local_batches import make_batches
from cai.modeling import decoding, generation
from cai.modeling.attention import Prefix
from cai.modeling.batch_limits import batch_limits
from cai.modeling.batching import MIN_SHARED_TOKENS, common_prefix_length
from cai.modeling.continuations import Options
from cai.modeling.fast_paths import fast_paths
from cai.modeling.loading import fingerprint, load_model, window_of
from cai.modeling.model_spec import THINKING_TOKENS, Thinking
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.precision import matmul_dtype
from cai.modeling.sampling import Generation
from cai.modeling.thinking import ThoughtTokens, think
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat
from cai.seeds import derive

MAX_CACHED_PREFIXES = 4
CLOSING_TOKENS = 16
"""What closes a thought, at most."""
JUDGE_THINKING_TEMPERATURE = 0.6
"""Greedy thoughts repeat themselves. The draws follow from the prompt."""
DEFAULT_THINKING = Thinking()


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
    options: Options
    """The prefill and the options that follow it."""
    after_thought: Options
    """The same, as they follow a thought."""
    future: asyncio.Future[list[float]]


class LocalLM:
    """A transformers model behind the LM protocol.

    Args:
        model: a causal model of `load_model`.
        renderer: its tokenizer and chat template.
        fingerprint: distinguishes it from other models.
        max_concurrency: calls at once; None: as many as a batch has rows.
        thinking_tokens: most tokens of a thought, if the renderer lets the model think.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        fingerprint: str,
        *,
        max_concurrency: int | None = None,
        thinking_tokens: int = THINKING_TOKENS,
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.fingerprint = fingerprint
        self.limits = batch_limits(model)
        self.max_concurrency = max_concurrency or self.limits.rows
        self.thinking_tokens = thinking_tokens if renderer.thinks else 0
        self._pending: list[_SampleCall | _ChoiceCall] = []
        self._worker: asyncio.Task[None] | None = None
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._limit = BatchLimit(f"local model {fingerprint}")

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
        ids = self.renderer.prompt_ids(chat)
        options = self.renderer.option_ids(prefill, choices)
        after_thought = options
        if self.renderer.thinks:
            after_thought = self.renderer.option_ids(prefill, choices, after_thought=True)
        self._submit(_ChoiceCall(ids, options, after_thought, future))
        return await future

    async def aclose(self) -> None:
        """Nothing to close: the model lives in this process."""

    # ---- gathering ----

    def _submit(self, call: _SampleCall | _ChoiceCall) -> None:
        max_length = window_of(self.model.config)
        option = ""
        if isinstance(call, _SampleCall):
            new_tokens = call.max_tokens
        else:
            prefill, options = call.options
            longest = max(map(len, options), default=1)
            new_tokens = len(prefill) + longest
            option = f" and an option of {longest}" if longest > 1 else ""
        if self.thinking_tokens:
            new_tokens += self.thinking_tokens + CLOSING_TOKENS
        if len(call.ids) + new_tokens > max_length:
            raise UnansweredError(
                f"a prompt of {len(call.ids)} tokens{option} does not fit "
                f"the model's window of {max_length}"
                + (f" with a thought of {self.thinking_tokens}" if self.thinking_tokens else "")
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
            for sample_batch in make_batches(sample_calls, self.limits):
                self._run_batch(sample_batch, self._sample_batch)
                await asyncio.sleep(0)
            for choice_batch in make_batches(choice_calls, self.limits):
                self._run_batch(choice_batch, self._choice_batch)
                await asyncio.sleep(0)

    async def _wait_for_callers(self) -> None:
        """Let every runnable task run until no further call is submitted."""
        num_pending = -1
        while num_pending != len(self._pending):
            num_pending = len(self._pending)
            for _ in range(4):
                await asyncio.sleep(0)

    def _length(self, call: _SampleCall | _ChoiceCall) -> int:
        """Tokens that a call may have in the model's cache."""
        new_tokens = call.max_tokens if isinstance(call, _SampleCall) else len(call.options[0])
        return len(call.ids) + self.thinking_tokens + new_tokens

    def _run_batch(self, batch: list[Any], run: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        active = [call for call in batch if not call.future.cancelled()]
        if not active:
            return
        try:
            with blame(BackendError, f"local model {self.fingerprint}"):
                results = self._limit.run(active, self._length, self._freeing(run))
        except BackendError as error:
            for call in active:
                if not call.future.done():
                    call.future.set_exception(error)
            return
        for call, result in zip(active, results, strict=True):
            if not call.future.done():  # a signal may have cancelled it while the model ran
                call.future.set_result(result)

    def _freeing(
        self, run: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """`run`, which drops the kept prefixes where it fails: memory may have run out."""

        def freeing(calls: Sequence[Any]) -> Sequence[Any]:
            try:
                return run(calls)
            except Exception:
                self._prefixes.clear()
                raise

        return freeing

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
            self._prefixes[key] = decoding.prefill_prefix(self.model, key)
            if len(self._prefixes) > MAX_CACHED_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(key)
        return self._prefixes[key]

    def _think(
        self, rows: Sequence[list[int]], temperatures: Sequence[float], seeds: Sequence[int]
    ) -> list[ThoughtTokens]:
        if not self.thinking_tokens:
            return [ThoughtTokens([], None, 0) for _ in rows]
        return think(
            self.model,
            self.renderer,
            rows,
            budget=self.thinking_tokens,
            temperatures=temperatures,
            seeds=seeds,
            prefix=self._shared_prefix(rows),
        )

    def _sample_batch(self, calls: Sequence[_SampleCall]) -> list[Sample]:
        def has_stop_text(row: int, ids: list[int]) -> bool:
            stop = calls[row].stop
            return bool(stop) and truncate_at_stop(self.renderer.text(ids), stop)[1]

        prompts, seeds = [call.ids for call in calls], [call.seed for call in calls]
        temperatures = [call.temperature for call in calls]
        thoughts = self._think(prompts, temperatures, seeds)
        rows = [ids + thought.ids for ids, thought in zip(prompts, thoughts, strict=True)]
        generations = generation.generate(
            self.model,
            rows,
            max_tokens=[call.max_tokens for call in calls],
            temperatures=temperatures,
            # draws of its own after a thought, which has used those of the seed
            seeds=[
                derive(seed, "reply") if thought.ids else seed
                for seed, thought in zip(seeds, thoughts, strict=True)
            ],
            stop_ids=self.renderer.stop_ids,
            pad=self.renderer.pad_token_id,
            prefix=self._shared_prefix(rows),
            stop_when=has_stop_text,
        )
        return [self._sample(*triple) for triple in zip(calls, thoughts, generations, strict=True)]

    def _sample(self, call: _SampleCall, thought: ThoughtTokens, generated: Generation) -> Sample:
        text = truncate_at_stop(self.renderer.text(generated.ids), call.stop)[0]
        reply = self.renderer.split(text)
        parts = [part for part in (thought.text, reply.thought) if part]
        return Sample(
            text=reply.text,
            finished=generated.finished and reply.is_closed,
            prompt_tokens=len(call.ids),
            completion_tokens=thought.sampled + len(generated.ids),
            thought="\n".join(parts) or None,
        )

    def _choice_batch(self, calls: Sequence[_ChoiceCall]) -> list[list[float]]:
        prompts = [call.ids for call in calls]
        temperatures = [JUDGE_THINKING_TEMPERATURE] * len(calls)
        seeds = [derive(0, "judge", *ids) for ids in prompts] if self.thinking_tokens else []
        thoughts = self._think(prompts, temperatures, seeds)
        parts = [
            call.after_thought if thought.ids else call.options
            for call, thought in zip(calls, thoughts, strict=True)
        ]
        rows = [
            [*call.ids, *thought.ids, *start]
            for call, thought, (start, _) in zip(calls, thoughts, parts, strict=True)
        ]
        return generation.option_logprobs(
            self.model,
            rows,
            [options for _, options in parts],
            pad=self.renderer.pad_token_id,
            prefix=self._shared_prefix(rows),
        )


def load_local(
    name_or_path: str,
    thinking: Thinking = DEFAULT_THINKING,
    *,
    max_concurrency: int | None = None,
) -> LocalLM:
    """Model and tokenizer from a folder or a hub id."""
    renderer = load_renderer(name_or_path, thinks=thinking.is_on)
    name = fingerprint(name_or_path)
    if renderer.rendering:
        name += f"+{renderer.rendering}"
    if thinking.is_on:
        name += f"+{thinking.tokens} tokens of thought"
    return LocalLM(
        load_model(name_or_path, matmul_dtype(), may_spread=True),
        renderer,
        name,
        max_concurrency=max_concurrency,
        thinking_tokens=thinking.tokens,
    )
