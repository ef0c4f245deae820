"""Content digests of the parts of a constitution, and the difference of two constitutions.

A run records the digests of the parts that it used.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from cai.constitution.schema import Constitution


class Change(NamedTuple):
    """One part that differs. `fields` names the fields that differ inside a changed part."""

    what: Literal["added", "removed", "changed"]
    key: str
    fields: tuple[str, ...] = ()


def digests(constitution: Constitution) -> dict[str, str]:
    """The first 16 hex digits of the SHA-256 of each part.

    Order of keys, comments and quoting do not change a digest. Neither does a principle's `why`,
    which no stage of a run reads. The order of lists (examples, classes from best to worst) does.

    Returns:
        Digest by part: `principle:<id>`, `examples:<stage>`, and `rubric` if there is one.
    """
    return {
        key: sha256(_canonical(_without_why(key, part)).encode()).hexdigest()[:16]
        for key, part in _parts(constitution).items()
    }


def diff(a: Constitution, b: Constitution) -> list[Change]:
    """The changes from `a` to `b`: the parts of `a` in their order, then the added parts."""
    before, after = _parts(a), _parts(b)
    changes = []
    for key, part in before.items():
        if key not in after:
            changes.append(Change("removed", key))
        elif _canonical(part) != _canonical(after[key]):
            changes.append(Change("changed", key, _differing(part, after[key])))
    return changes + [Change("added", key) for key in after if key not in before]


def _without_why(key: str, part: Any) -> Any:
    if not key.startswith("principle:"):
        return part
    return {name: value for name, value in part.items() if name != "why"}


def _parts(constitution: Constitution) -> dict[str, Any]:
    parts: dict[str, Any] = {
        f"principle:{principle.id}": principle.model_dump(mode="json")
        for principle in constitution.principles
    }
    for stage, examples in constitution.examples.model_dump(mode="json").items():
        parts[f"examples:{stage}"] = examples
    if constitution.rubric is not None:
        parts["rubric"] = constitution.rubric.model_dump(mode="json")
    return parts


def _canonical(part: Any) -> str:
    return json.dumps(part, sort_keys=True, ensure_ascii=False)


def _differing(old: Any, new: Any) -> tuple[str, ...]:
    """The fields of a principle or the rubric that differ; empty for lists of examples."""
    if not isinstance(old, dict):
        return ()
    return tuple(name for name in new if _canonical(old.get(name)) != _canonical(new[name]))
