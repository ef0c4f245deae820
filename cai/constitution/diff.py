"""What a constitution's parts are, by content: what a run wrote down as used, and what an edit changed."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from cai.constitution.schema import Constitution


class Change(NamedTuple):
    """One part that differs. `fields` names what differs inside a changed part."""

    what: Literal["added", "removed", "changed"]
    key: str
    fields: tuple[str, ...] = ()


def digests(constitution: Constitution) -> dict[str, str]:
    """16 hex digits of SHA-256 per part: `principle:<id>`, `examples:critique`, `examples:compare`, and `rubric` if there is one.

    Depends on what is said, not on how it is written: order of keys, comments and quoting change nothing. The order of lists
    (examples, classes from best to worst) does.
    """
    return {key: sha256(_canonical(part).encode()).hexdigest()[:16] for key, part in _parts(constitution).items()}


def diff(a: Constitution, b: Constitution) -> list[Change]:
    """What `b` adds to, removes from and changes in `a`: first the parts of `a` in their order, then the new ones."""
    before, after = _parts(a), _parts(b)
    changes = []
    for key, part in before.items():
        if key not in after:
            changes.append(Change("removed", key))
        elif _canonical(part) != _canonical(after[key]):
            changes.append(Change("changed", key, _differing(part, after[key])))
    return changes + [Change("added", key) for key in after if key not in before]


def _parts(constitution: Constitution) -> dict[str, Any]:
    parts: dict[str, Any] = {f"principle:{one.id}": one.model_dump(mode="json") for one in constitution.principles}
    for stage, examples in constitution.examples.model_dump(mode="json").items():
        parts[f"examples:{stage}"] = examples
    if constitution.rubric is not None:
        parts["rubric"] = constitution.rubric.model_dump(mode="json")
    return parts


def _canonical(part: Any) -> str:
    return json.dumps(part, sort_keys=True, ensure_ascii=False)


def _differing(old: Any, new: Any) -> tuple[str, ...]:
    """Names of the fields of a principle or the rubric that differ; none for lists of examples."""
    if not isinstance(old, dict):
        return ()
    return tuple(name for name in new if _canonical(old.get(name)) != _canonical(new[name]))
