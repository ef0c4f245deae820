"""Models behind one protocol of two methods."""

from __future__ import annotations

import difflib

from cai.errors import UsageError
from cai.lm.base import LM, Sample
from cai.lm.fake import FAKES, FakeLM
from cai.lm.http import HttpConfig, HttpLM
from cai.modeling.model_files import local_weights, locate

__all__ = ["LM", "FakeLM", "Sample", "open_lm"]

FORMS = "smollm2, local:FOLDER_OR_HUB_ID, http://HOST:PORT/v1#MODEL, or fake:NAME"


def open_lm(spec: str, http: HttpConfig | None = None) -> LM:
    """The model that `spec` names: `smollm2` (embedded), `local:FOLDER_OR_HUB_ID`, `http://HOST:PORT/v1#MODEL`, `fake:NAME`.

    Raises:
        UsageError: no such form or name.
        BackendError: the files are there but cannot be loaded.
    """
    kind, _, name = spec.partition(":")
    if kind == "fake":
        if name not in FAKES:
            raise UsageError(f"model {spec!r}: no such fake; known: {', '.join(sorted(FAKES))}")
        return FakeLM(*FAKES[name], name=name)
    if kind in ("http", "https"):
        return HttpLM(spec, http)
    if (weights := local_weights(spec)) is not None:
        # torch and transformers take seconds to import: only those who load a model wait for them.
        from cai.lm.local import load_local

        return load_local(locate(weights))
    near = difflib.get_close_matches(spec, ["smollm2", "local:", "http:", "fake:"], 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"model {spec!r}: unknown form{hint}; use {FORMS}")
