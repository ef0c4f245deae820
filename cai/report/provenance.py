"""The chain from the constitution to the numbers: what each stage of a run read, by digest.

It is made from the manifests alone: no file is digested again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.records import FrozenModel
from cai.store import Manifest, digest

State = Literal["as made", "made again since", "from outside the run"]
PARTS = ("principle:", "examples:", "rubric")
"""Begin the keys of a provenance that are parts of the constitution."""
SETTINGS = ("constitution", "model", "judge", "seed", "config")
FILES = ("input ", "extra ", "preferences ", "ptx ", "against ")
"""Begin the keys of a provenance that are names of files, of which the digest is the value."""


class UsedConstitution(FrozenModel):
    """What the stages of a run recorded of its constitution."""

    names: tuple[str, ...]
    """Name and version; several when stages used several."""
    digest: str
    """Of the digests of all parts that a stage read."""
    parts: int
    differing: tuple[str, ...]
    """Parts of which stages read different texts."""


@dataclass(frozen=True)
class Input:
    name: str
    digest: str
    state: State


@dataclass(frozen=True)
class Link:
    """One stage of the chain."""

    stage: str
    finished: bool
    inputs: list[Input]
    settings: list[tuple[str, str]]
    """Constitution, models, seed and the digest of the stage's settings, as far as recorded."""
    parts: int
    """Parts of the constitution that the stage read."""
    outputs: list[tuple[str, str]]
    """(name, digest) of what it left."""


def used_constitution(manifests: Sequence[Manifest]) -> UsedConstitution | None:
    """The run's constitution; None when no manifest names one."""
    names = dict.fromkeys(
        manifest.provenance["constitution"]
        for manifest in manifests
        if "constitution" in manifest.provenance
    )
    digests: dict[str, set[str]] = {}
    for manifest in manifests:
        for key, value in _parts(manifest.provenance).items():
            digests.setdefault(key, set()).add(value)
    if not names:
        return None
    lines = [f"{key}:{value}" for key in sorted(digests) for value in sorted(digests[key])]
    differing = tuple(key for key in sorted(digests) if len(digests[key]) > 1)
    return UsedConstitution(
        names=tuple(names), digest=digest(*lines), parts=len(digests), differing=differing
    )


def chain(manifests: Sequence[Manifest]) -> list[Link]:
    """The stages in the order of the manifests, each with its inputs."""
    outputs = {name: value for manifest in manifests for name, value in manifest.content.items()}
    return [_link(manifest, outputs) for manifest in manifests]


def _link(manifest: Manifest, outputs: Mapping[str, str]) -> Link:
    provenance = manifest.provenance
    inputs = []
    for key, value in provenance.items():
        if key.startswith(FILES):
            name = key.split(" ", 1)[1]
            inputs.append(Input(name, value, _state(outputs.get(name), value)))
    return Link(
        stage=manifest.stage,
        finished=manifest.finished,
        inputs=inputs,
        settings=[(key, provenance[key]) for key in SETTINGS if key in provenance],
        parts=len(_parts(provenance)),
        outputs=list(manifest.content.items()),
    )


def _state(output: str | None, read: str) -> State:
    if output is None:
        return "from outside the run"
    return "as made" if output == read else "made again since"


def _parts(provenance: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in provenance.items() if key.startswith(PARTS)}
