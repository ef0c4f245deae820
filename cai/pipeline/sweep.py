"""A grid of runs that differ in some settings, and share the artefacts that those do not decide."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.artifacts import FILES, FINISHED_WITH, STAGES
from cai.constitution.overrides import key_text
from cai.constitution.yaml_source import parse_value
from cai.errors import ConfigError
from cai.files import partial_path
from cai.pipeline.saved_settings import ARTEFACT_OF, DECIDES
from cai.store import manifest_path

MAX_VARIANTS = 64


@dataclass(frozen=True)
class Variant:
    """One run of the grid."""

    values: tuple[tuple[str, object], ...]
    """(key, value) of each swept setting."""

    @property
    def settings(self) -> list[str]:
        """As `--set` takes them."""
        return [f"{key}={json.dumps(value)}" for key, value in self.values]

    @property
    def name(self) -> str:
        """The name of its folder: `ppo.kl.coef=0.05`."""
        text = ",".join(f"{key}={value}" for key, value in self.values)
        return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text)[:120]


def grid(settings: Sequence[str]) -> list[Variant]:
    """All combinations of `key=[value, …]`, the last key varying fastest.

    Raises:
        ConfigError: not a key with a list of values, a key twice, or too many combinations.
    """
    axes: dict[str, list[object]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        shown = key_text(setting)
        try:
            values = parse_value(text) if equals else None
        except ValueError as error:
            raise ConfigError(f"sweep: {shown}: the values are not YAML: {error}") from None
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"sweep: {shown}: expected a list of values, for example 'ppo.kl.coef=[0.01, 0.05]'"
            )
        if key in axes:
            raise ConfigError(f"sweep: {shown}: given twice; give all its values in one list")
        axes[key] = values
    variants = [
        Variant(tuple(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]
    if len(variants) > MAX_VARIANTS:
        raise ConfigError(f"sweep: {len(variants)} runs; give fewer values: {MAX_VARIANTS} at most")
    if len({variant.name for variant in variants}) < len(variants):
        raise ConfigError("sweep: two of the runs would have one folder: give each value once")
    return variants


def first_decided_stage(keys: Sequence[str]) -> str:
    """The first stage whose artefact one of the settings decides."""
    sections = [key.split(".")[0] for key in keys]
    decided = {stage for section in sections for stage in DECIDES.get(section, STAGES)}
    return next((stage for stage in STAGES if stage in decided), STAGES[-1])


def share_artefacts(source: Path, target: Path, stage: str) -> None:
    """Copy what the stages before `stage` left in one run's folder to another's, with manifests,
    where it has none yet. A kill leaves an artefact complete or not there.
    """
    target.mkdir(parents=True, exist_ok=True)
    earlier = STAGES[: STAGES.index(stage)]
    shared = {ARTEFACT_OF[name] for name in earlier if name in ARTEFACT_OF}
    for name in FILES:
        if FINISHED_WITH.get(name, name) in shared and (source / name).exists():
            _copy(source / name, target / name)
            _copy(manifest_path(source / name), manifest_path(target / name))


def _copy(source: Path, target: Path) -> None:
    if target.exists() or not source.exists():
        return
    partial = partial_path(target)
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
    else:
        shutil.copyfile(source, partial)
    partial.rename(target)
