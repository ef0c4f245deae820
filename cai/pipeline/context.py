"""What the stages of one run share: where things are, the constitution, open models, and what decides an artefact."""

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
from cai.data.filters import HygieneConfig, asks_for_tokens
from cai.data.split import read_prompts, split
from cai.errors import ConfigError, StoreError
from cai.generate.row_reuse import kept_path, only_principles, set_aside
from cai.lm import LM, open_lm
from cai.lm.budget import Budget, MeteredLM
from cai.lm.caching import CachedLM
from cai.lm.http import HttpLM
from cai.lm.request_log import LOG, RequestLog
from cai.modeling import memory
from cai.pipeline.config import ResolvedRun, Run
from cai.progress import Progress
from cai.records import Prompt
from cai.rubric import CompiledRubric, compile_rubric
from cai.store import digest


@dataclass
class RunContext:
    """What the stages of one run share: settings, constitution, open models, and the way to tell how far things are."""

    loaded: ResolvedRun
    constitution: Constitution
    rubric: CompiledRubric
    progress: Callable[[str], Progress]
    budget: Budget = field(default_factory=Budget)
    say: Callable[[str], None] = lambda line: None
    """One line for whoever watches."""
    models: dict[str, LM] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.loaded.run

    @property
    def seed(self) -> int:
        return self.loaded.run.seed

    def path(self, name: str) -> Path:
        return self.loaded.folder / name

    def require(self, name: str) -> Path:
        """An earlier stage's artefact, which must be whole. Without a manifest, it is another program's, and taken as it is."""
        path = self.path(name)
        if not path.exists():
            raise StoreError(f"{path}: not made yet: run the stages before this one")
        manifest = store.read_manifest(path)
        if manifest is not None and not manifest.finished:
            raise StoreError(f"{path}: only half made: finish the stage {manifest.stage} first")
        return path

    def lm(self, spec: str) -> LM:
        """The model that `spec` names. Calls to an endpoint go through the run's request log and budget."""
        if spec not in self.models:
            lm = open_lm(spec, self.loaded.run.http)
            if isinstance(lm, HttpLM):
                lm = CachedLM(MeteredLM(lm, self.budget, self.loaded.run.prices), RequestLog(self.path(request_log_name())))
            self.models[spec] = lm
        return self.models[spec]

    def map_rows(
        self, lm: LM, out: Path, rows: Sequence[Any], step: Callable[[Any], Awaitable[Any]], kind: Any, told: str, **more: Any
    ) -> None:
        """`map_rows` for a step that asks `lm`, with a bar, and connections closed at its end."""

        source = more.get("source", lambda row: row.source)
        stored = kept_path(out)
        kept = {source(row): row for row in store.read(stored, kind)} if stored.exists() else {}

        async def kept_or_made(row: Any) -> Any:
            return kept[row.id] if row.id in kept else await step(row)

        async def work() -> None:
            try:
                given = {"max_concurrency": lm.max_concurrency, "sliding": isinstance(lm, CachedLM), **more}
                await map_rows(out, rows, kept_or_made, kind, progress=self.progress(told), **given)
            finally:
                await lm.aclose()

        asyncio.run(work())
        stored.unlink(missing_ok=True)

    def begin_or_reuse(
        self, out: Path, stage: str, made: Mapping[str, str], kind: type[RowT], stands: Callable[[RowT, Collection[str]], bool]
    ) -> bool:
        """`store.begin` for rows that each drew some principles: where only principles were edited, the other rows are kept.

        `stands(row, ids of what was edited)` says whether a row is what would be made now. Returns whether nothing is to do.
        """
        found = store.read_manifest(out)
        edited = only_principles(store.differing(found, made)) if found else set()
        same = found and _name(found.made) == _name(made)  # another name is another constitution, not an edit of this one
        if found and same and found.made != made and edited is not None:
            kept, stale = set_aside(out, kind, lambda row: stands(row, edited))
            store.claim(out, stage, made)
            self.say(
                f"{stage}: principles were edited ({', '.join(sorted(edited)) or 'none'}): {kept} rows kept, {stale} to make anew"
            )
        return store.begin(out, stage, made) is not None

    def close_models(self) -> None:
        """Forget the open models, and give their memory back to the system."""
        self.models.clear()
        memory.release_memory()

    def provenance(self, config: Any, inputs: Sequence[str], parts: Sequence[str] = (), **more: str) -> dict[str, str]:
        """What decides an artefact: config, seed, input files, the parts of the constitution it reads, models."""
        wanted = (
            {key: value for key, value in digests(self.constitution).items() if key.startswith(tuple(parts))} if parts else {}
        )
        files = {f"input {name}": store.file_digest(self.require(name)) for name in inputs}
        about = {"constitution": f"{self.constitution.name} {self.constitution.version}"} if parts else {}
        return {"config": digest(config), "seed": str(self.seed), **about, **wanted, **files, **more}


def request_log_name() -> str:
    """Name of this process's request log: of torchrun's processes, each has its own."""
    number = os.environ.get("RANK", "0")
    return LOG if number == "0" else f"requests-{number}.sqlite"


def _name(made: Mapping[str, str]) -> str:
    return made.get("constitution", "").partition(" ")[0]


def open_run(
    loaded: ResolvedRun,
    progress: Callable[[str], Progress],
    budget: Budget | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunContext:
    """Compile the constitution.

    Raises:
        ConfigError: it has no rubric, or the rubric is not sound.
    """
    constitution = load_constitution(loaded.constitution)
    if constitution.rubric is None:
        raise ConfigError(f"{loaded.constitution}: no rubric: a run needs one to gate, reward and evaluate replies")
    rubric = compile_rubric(constitution.rubric)
    if rubric.asked:
        named = ", ".join(rubric.asked)
        raise ConfigError(f"{loaded.constitution}: only a model can decide {named}: a run grades without one: give them patterns")
    return RunContext(loaded, constitution, rubric, progress, budget or Budget(), say)


def hygiene_provenance(loaded: ResolvedRun, config: HygieneConfig) -> dict[str, str]:
    """What decides which rows hygiene lets through: its settings, and the evaluation texts they name."""
    other = zip(loaded.run.hygiene.against, loaded.against, strict=True)
    return {"hygiene": digest(config), **{f"against {name}": store.file_digest(path) for name, path in other}}


def read_run_prompts(loaded: ResolvedRun) -> tuple[list[Prompt], list[Prompt], Counter[str]]:
    """(training prompts, held-out prompts, what hygiene counted) of a run."""
    run = loaded.run
    count: Callable[[str], int] = len
    if asks_for_tokens(run.hygiene):
        from cai.modeling.tokenization import token_counter

        count = token_counter(run.model)
    prompts, counts = read_prompts(loaded.prompts, run.hygiene, loaded.against, count)
    return *split(prompts, run.held_out, run.seed, run.split_by), counts


def read_rows(path: Path, kind: Any) -> list[Any]:
    return list(store.read(path, kind))
