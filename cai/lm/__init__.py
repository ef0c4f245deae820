"""Language models behind one protocol of two methods."""

from __future__ import annotations

import difflib

from cai.errors import UsageError
from cai.lm.base import LM, Sample
from cai.lm.credentials import refuse_user_info
from cai.lm.engines import ENGINES, EngineServer
from cai.lm.fake import FAKES, FakeLM
from cai.lm.http import HttpConfig, HttpLM
from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.modeling.model_spec import split_spec

__all__ = ["LM", "FakeLM", "Sample", "open_lm"]

SPEC_FORMS = (
    "smollm2, local:FOLDER_OR_HUB_ID, vllm: or sglang:FOLDER_OR_HUB_ID, "
    "http://HOST:PORT/v1#MODEL, or fake:NAME"
)
SPEC_PREFIXES = ("smollm2", "local:", "vllm:", "sglang:", "http:", "fake:")


def open_lm(spec: str, http: HttpConfig | None = None) -> LM:
    """The model that `spec` names.

    Args:
        spec: `smollm2` (embedded), `local:FOLDER_OR_HUB_ID`, `http://HOST:PORT/v1#MODEL`,
            `vllm:FOLDER_OR_HUB_ID` or `sglang:FOLDER_OR_HUB_ID` (an engine that is started for
            it), or `fake:NAME`. A model that thinks takes options:
            `?thinking=on&thinking_tokens=2048`.

    Raises:
        UsageError: no such form or name.
        BackendError: the files exist but cannot be loaded.
    """
    refuse_user_info(spec)
    kind, _, name = spec.partition(":")
    if kind == "fake":
        if name not in FAKES:
            known = ", ".join(sorted(FAKES))
            raise UsageError(f"model {spec!r}: no such fake; known: {known}")
        return FakeLM(*FAKES[name], name=name)
    if kind in ("http", "https"):
        return HttpLM(spec, http)
    if kind in ENGINES:
        config = http or HttpConfig()
        name, thinking = split_spec(name)
        server = EngineServer(kind, name, config.start_timeout)
        return HttpLM(f"{server.spec}{thinking.text}", config, server)
    weights = local_model_name(spec)
    if weights is not None:
        # torch and transformers take seconds to import: only commands that load a model wait.
        from cai.lm.local import load_local

        return load_local(resolve_model_path(weights), split_spec(spec)[1])
    near = difflib.get_close_matches(spec, SPEC_PREFIXES, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"model {spec!r}: unknown form{hint}; use {SPEC_FORMS}")
