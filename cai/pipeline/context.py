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
from cai.artifacts import EVALUATIONS, FILES, FINISHED_WITH, HELD_OUT, VALIDATION
from cai.async_map import RowT, map_rows
from cai.constitution import Constitution, digests, load_constitution
from cai.data.filters import HygieneConfig
from cai.errors import PASSING, ConfigError, StoreError, is_passing
from cai.generate.row_reuse import only_principles, reusable_rows_path, set_aside
from cai.generate.unanswered import set_unanswered_aside
from cai.lm import LM, open_lm
from cai.lm.batch import Batch, collect_requests
from cai.lm.budget import Budget, MeteredLM
from cai.lm.caching import CachedLM
from cai.lm.engines import is_endpoint
from cai.lm.http import HttpLM
from cai.lm.request_log import REQUEST_LOG_NAME, RequestLog
from cai.modeling import memory
from cai.modeling.model_spec import is_reward_spec
from cai.pipeline.config import ResolvedRun, Run
from cai.progress import ProgressFactory
from cai.report.formats import shorten_reason
from cai.reward.score_labels import open_reward_judge
from cai.rubric import CompiledRubric, compile_rubric
from cai.store import Manifest, digest


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
    on_accept: Callable[[str], None] = lambda stage: None
    """Called with a stage that has taken the settings, before it works."""
    nulls: dict[str, str] = field(default_factory=dict)
    """Stage -> how many of its rows are null, and why."""
    models: dict[str, LM] = field(default_factory=dict)
    batch: Batch | None = None
    """Answers calls to endpoints in their place, in a pass for a batch queue."""

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
            StoreError: it is missing, unfinished, or not as its stage left it.
        """
        path = self.path(name)
        if not path.exists():
            raise StoreError(f"{path}: not made yet: run the stages before this one")
        recorded = self.path(FINISHED_WITH.get(name, name))
        manifest = store.read_manifest(recorded)
        if manifest is not None:
            if not manifest.finished:
                raise StoreError(f"{path}: only half made: finish the stage {manifest.stage} first")
            store.check_content(recorded, manifest, name)
        return path

    def accept_content(self, name: str) -> None:
        """Take an artefact as it is now, although it is not as its stage left it.

        Raises:
            StoreError: there is no such artefact, or no stage has finished it.
        """
        below = name.startswith(f"{EVALUATIONS}/") and ".." not in Path(name).parts
        if name not in FILES and not below:
            raise StoreError(
                f"--accept {name}: no artefact of that name; they are {', '.join(FILES)},"
                f" and files of {EVALUATIONS}/"
            )
        store.accept_content(self.path(FINISHED_WITH.get(name, name)), Path(name).name)

    def begin(self, out: Path, stage: str, provenance: Mapping[str, str]) -> bool:
        """`store.begin_artifact` for a stage: whether the artefact is finished already."""
        recorded = store.read_manifest(out)
        manifest = store.begin_artifact(out, stage, _comparable(recorded, provenance))
        self.on_accept(stage)
        if manifest is not None:
            unanswered = {
                name: int(count)
                for name, count in manifest.counts.items()
                if name.startswith("no answer") and isinstance(count, int | float)
            }
            self.nulls[stage] = _nulls_line(unanswered)
        return manifest is not None

    def lm(self, spec: str) -> LM:
        """The model that `spec` names. Calls to an endpoint go through the run's request log and
        budget.
        """
        if spec not in self.models:
            if is_reward_spec(spec):
                lm: LM = open_reward_judge(spec)
            else:
                lm = open_lm(spec, self.run.http)
            if isinstance(lm, HttpLM):
                lm.batch = self.batch
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
        closed at its end, also those of a `judge` among the options.

        Rows that `begin_or_reuse` set aside as still current are taken instead of made again.
        """
        source = options.get("source", lambda row: row.source)
        stored = reusable_rows_path(out)
        reusable = (
            {source(row): row for row in store.read_rows(stored, kind)} if stored.exists() else {}
        )
        lms = [lm for lm in (lm, options.pop("judge", None)) if lm is not None]
        options = {
            "max_concurrency": lm.max_concurrency,
            "sliding": isinstance(lm, CachedLM),
            "progress": self.progress(label),
            **options,
        }

        async def reuse_or_make(row: Any) -> Any:
            return reusable[row.id] if row.id in reusable else await step(row)

        if self.batch is not None:
            finished = (
                {source(row) for row in store.read_rows(out, kind)} if out.exists() else set()
            )
            missing = [row for row in rows if row.id not in finished]
            collect_requests(lm, missing, reuse_or_make, self.batch, self.progress(label))

        async def work() -> None:
            try:
                await map_rows(out, rows, reuse_or_make, kind, **options)
            finally:
                for each in lms:
                    await each.aclose()

        asyncio.run(work())
        stored.unlink(missing_ok=True)

    def begin_or_reuse(
        self,
        out: Path,
        stage: str,
        provenance: Mapping[str, str],
        kind: type[RowT],
        is_current: Callable[[RowT, Collection[str]], bool],
        next_artefact: str,
    ) -> bool:
        """`begin` for rows that each drew some principles: if only principles were edited, current
        rows are kept. Rows that an endpoint left unanswered are asked again.

        Args:
            next_artefact: the artefact of the next stage: once it is there, nothing is asked again.
            is_current: (row, ids of the edited principles) -> whether the row is what would be made
                now.

        Returns:
            Whether the artefact is finished, and nothing is to be done.
        """
        manifest = store.read_manifest(out)
        provenance = _comparable(manifest, provenance)
        if manifest is not None and manifest.provenance != provenance:
            if manifest.finished:
                store.check_content(out, manifest)
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
        finished = self.begin(out, stage, provenance)
        if not finished:
            set_unanswered_aside(out, kind)
            return False
        counts = manifest.counts if manifest is not None else {}
        if not counts.get(PASSING):
            return True
        if store.manifest_path(self.path(next_artefact)).exists():
            self.nulls[stage] += (
                f" (to ask again, delete {next_artefact} and {out.name} with their manifests)"
            )
            return True
        store.claim_artifact(out, stage, provenance)
        self.notify(f"{stage}: {set_unanswered_aside(out, kind)} unanswered rows are asked again")
        return False

    def reopen_unanswered(self, out: Path, stage: str, provenance: Mapping[str, str]) -> bool:
        """Claim a finished artefact again, if some of its rows are worth asking again.

        For a stage that no other stage works on. It sets the rows aside itself.
        """
        manifest = store.read_manifest(out)
        if manifest is None or not manifest.counts.get(PASSING):
            return False
        store.claim_artifact(out, stage, _comparable(manifest, provenance))
        self.notify(f"{stage}: {manifest.counts[PASSING]} unanswered rows are asked again")
        return True

    def record_nulls(self, stage: str, reasons: Sequence[str | None]) -> dict[str, int]:
        """Note for the stage's line how many rows are null, and why.

        Args:
            reasons: of each row; None: the row is not null.

        Returns:
            Counts for the manifest: of rows without an answer.
        """
        counts = Counter(reason for reason in reasons if reason is not None)
        self.nulls[stage] = _nulls_line(counts, len(reasons))
        passing = sum(n for reason, n in counts.items() if is_passing(reason))
        unanswered = sum(n for reason, n in counts.items() if reason.startswith("no answer"))
        by_name = {PASSING: passing, "no answer": unanswered - passing}
        return {name: n for name, n in by_name.items() if n}

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
            provenance[f"input {name}"] = store.content_digest(self.require(name))
        return provenance | models

    def unseen_prompts(self) -> list[Path]:
        """Files of prompts that no training text may repeat: the evaluation's, and those of the
        validation if there is one.
        """
        names = [HELD_OUT, VALIDATION] if self.run.validation else [HELD_OUT]
        return [self.require(name) for name in names]

    def answer_settings(self, *specs: str) -> dict[str, str]:
        """Settings of endpoints that decide what a row holds, where one of `specs` is one."""
        has_endpoint = any(map(is_endpoint, specs))
        return self.run.http.answer_settings() if has_endpoint else {}


LATER_KEYS = ("tokenizer", "http.prefill", "http.allow")
"""Keys of a provenance that manifests of earlier versions lack."""


def _comparable(manifest: Manifest | None, provenance: Mapping[str, str]) -> dict[str, str]:
    """The provenance to compare with a manifest: of an earlier version's, what that recorded."""
    is_earlier = manifest is not None and manifest.finished and not manifest.content
    if manifest is None or not is_earlier:
        return dict(provenance)
    return {
        key: value
        for key, value in provenance.items()
        if key in manifest.provenance or key not in LATER_KEYS
    }


def _nulls_line(reasons: Mapping[str, int], rows: int | None = None) -> str:
    """`3 of 40 rows null: 2 no answer …, 1 near copy`; nothing if none is."""
    if not reasons:
        return ""
    most = sorted(reasons.items(), key=lambda item: -item[1])
    listed = [f"{count} {shorten_reason(reason)}" for reason, count in most[:3]]
    if others := sum(count for _, count in most[3:]):
        listed.append(f"{others} for other reasons")
    total = "" if rows is None else f" of {rows}"
    return f"{sum(reasons.values())}{total} rows null: {', '.join(listed)}"


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


def load_rows(path: Path, kind: Any) -> list[Any]:
    return list(store.read_rows(path, kind))
