"""The context of a run: settings, constitution, open models, paths, and the provenance of
artefacts.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai import store
from cai.async_map import RowT, map_rows
from cai.constitution import Constitution, digests, load_constitution
from cai.data.filters import HygieneConfig, needs_token_counts
from cai.data.split import read_prompts, split
from cai.errors import ConfigError, StoreError
from cai.generate.row_reuse import only_principles, reusable_rows_path, set_aside
from cai.lm import LM, open_lm
from cai.lm.budget import Budget, MeteredLM
from cai.lm.caching import CachedLM
from cai.lm.http import HttpLM
from cai.lm.request_log import REQUEST_LOG_NAME, RequestLog
from cai.modeling import memory
from cai.pipeline.config import ResolvedRun, Run
from cai.progress import ProgressFactory
from cai.records import Prompt
from cai.rubric import CompiledRubric, compile_rubric
from cai.store import digest


@dataclass
class RunContext:
    """Everything that the stages of one run share."""

    resolved: ResolvedRun
    constitution: Constitution
    rubric: CompiledRubric
    progress: ProgressFactory
    budget: Budget = field(default_factory=Budget)
    notify: Callable[[str], None] = lambda line: None
    """Called with a line for the user."""
    models: dict[str, LM] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.resolved.run

    @property
    def seed(self) -> int:
        return self.resolved.run.seed

    def path(self, name: str) -> Path:
        return self.resolved.folder / name

    def require(self, name: str) -> Path:
        """Path of an earlier stage's artefact. Without a manifest, it is another program's, and
        taken as it is.

        Raises:
            StoreError: it is missing, or unfinished.
        """
        path = self.path(name)
        if not path.exists():
            raise StoreError(f"{path}: not made yet: run the stages before this one")
        manifest = store.read_manifest(path)
        if manifest is not None and not manifest.finished:
            raise StoreError(f"{path}: only half made: finish the stage {manifest.stage} first")
        return path

    def lm(self, spec: str) -> LM:
        """The model that `spec` names. Calls to an endpoint go through the run's request log and
        budget.
        """
        if spec not in self.models:
            lm = open_lm(spec, self.run.http)
            if isinstance(lm, HttpLM):
                metered = MeteredLM(lm, self.budget, self.run.prices)
                lm = CachedLM(metered, RequestLog(self.path(request_log_name())))
            self.models[spec] = lm
        return self.models[spec]

    def map_rows(
        self,
        lm: LM,
        out: Path,
        rows: Sequence[Any],
        step: Callable[[Any], Awaitable[Any]],
        kind: Any,
        label: str,
        **options: Any,
    ) -> None:
        """`async_map.map_rows` for a step that calls `lm`: with a progress bar, and connections
        closed at its end.

        Rows that `begin_or_reuse` set aside as still current are taken instead of made again.
        """
        source = options.get("source", lambda row: row.source)
        stored = reusable_rows_path(out)
        reusable = (
            {source(row): row for row in store.read_rows(stored, kind)} if stored.exists() else {}
        )
        options = {
            "max_concurrency": lm.max_concurrency,
            "sliding": isinstance(lm, CachedLM),
            "progress": self.progress(label),
            **options,
        }

        async def reuse_or_make(row: Any) -> Any:
            return reusable[row.id] if row.id in reusable else await step(row)

        async def work() -> None:
            try:
                await map_rows(out, rows, reuse_or_make, kind, **options)
            finally:
                await lm.aclose()

        asyncio.run(work())
        stored.unlink(missing_ok=True)

    def begin_or_reuse(
        self,
        out: Path,
        stage: str,
        provenance: Mapping[str, str],
        kind: type[RowT],
        is_current: Callable[[RowT, Collection[str]], bool],
    ) -> bool:
        """`store.begin` for rows that each drew some principles: if only principles were edited,
        current rows are kept.

        Args:
            is_current: (row, ids of the edited principles) -> whether the row is what would be made
                now.

        Returns:
            Whether the artefact is finished, and nothing is to be done.
        """
        manifest = store.read_manifest(out)
        if manifest is not None and manifest.provenance != provenance:
            edited = only_principles(store.differing_keys(manifest, provenance))
            # another name is another constitution, not an edit of this one
            if edited is not None and _constitution_name(manifest.provenance) == _constitution_name(
                provenance
            ):
                kept, stale = set_aside(out, kind, lambda row: is_current(row, edited))
                store.claim_artifact(out, stage, provenance)
                self.notify(
                    f"{stage}: principles were edited ({', '.join(sorted(edited)) or 'none'}):"
                    f" {kept} rows kept, {stale} to make anew"
                )
        return store.begin_artifact(out, stage, provenance) is not None

    def close_models(self) -> None:
        """Drop the open models, and return their memory to the system."""
        self.models.clear()
        memory.release_memory()

    def provenance(
        self, config: Any, inputs: Sequence[str], parts: Sequence[str] = (), **models: str
    ) -> dict[str, str]:
        """What decides an artefact: digests of config, seed, inputs, parts of the constitution;
        model fingerprints.

        Args:
            inputs: names of earlier artefacts.
            parts: key prefixes of the parts of the constitution that the stage reads.
        """
        provenance = {"config": digest(config), "seed": str(self.seed)}
        if parts:
            constitution = self.constitution
            provenance["constitution"] = f"{constitution.name} {constitution.version}"
            part_digests = digests(constitution).items()
            provenance |= {
                key: value for key, value in part_digests if key.startswith(tuple(parts))
            }
        for name in inputs:
            provenance[f"input {name}"] = store.file_digest(self.require(name))
        return provenance | models


def request_log_name() -> str:
    """Name of this process's request log: of torchrun's processes, each has its own."""
    number = os.environ.get("RANK", "0")
    return REQUEST_LOG_NAME if number == "0" else f"requests-{number}.sqlite"


def _constitution_name(provenance: Mapping[str, str]) -> str:
    return provenance.get("constitution", "").partition(" ")[0]


def open_run(
    resolved: ResolvedRun,
    progress: ProgressFactory,
    budget: Budget | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> RunContext:
    """A run's context, with its constitution compiled.

    Raises:
        ConfigError: it has no rubric, or the rubric is not sound.
    """
    constitution = load_constitution(resolved.constitution)
    if constitution.rubric is None:
        raise ConfigError(
            f"{resolved.constitution}: no rubric:"
            " a run gates, rewards and evaluates replies with one"
        )
    rubric = compile_rubric(constitution.rubric)
    if rubric.model_questions:
        raise ConfigError(
            f"{resolved.constitution}: only a model can decide {', '.join(rubric.model_questions)}:"
            " a run grades without one: give them patterns"
        )
    return RunContext(resolved, constitution, rubric, progress, budget or Budget(), notify)


def hygiene_provenance(resolved: ResolvedRun, config: HygieneConfig) -> dict[str, str]:
    """What decides which rows hygiene lets through: its settings, and the evaluation texts they
    name.
    """
    provenance = {"hygiene": digest(config)}
    for name, path in zip(resolved.run.hygiene.against, resolved.against, strict=True):
        provenance[f"against {name}"] = store.file_digest(path)
    return provenance


def read_run_prompts(resolved: ResolvedRun) -> tuple[list[Prompt], list[Prompt], Counter[str]]:
    """(training prompts, held-out prompts, what hygiene counted) of a run."""
    run = resolved.run
    count_tokens: Callable[[str], int] = len
    if needs_token_counts(run.hygiene):
        from cai.modeling.tokenization import token_counter

        count_tokens = token_counter(run.model)
    prompts, counts = read_prompts(resolved.prompts, run.hygiene, resolved.against, count_tokens)
    train, held_out = split(prompts, run.held_out, run.seed, run.split_by)
    return train, held_out, counts


def load_rows(path: Path, kind: Any) -> list[Any]:
    return list(store.read_rows(path, kind))
