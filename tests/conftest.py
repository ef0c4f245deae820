"""Settings of all tests: no network, float32, and one thread, since toys are slower on two."""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# also where there is a GPU: tests make tensors of their own beside those of models
os.environ.setdefault("CAI_DEVICE", "cpu")
# fast paths are compared with literal ones to the fifth decimal
os.environ["CAI_PRECISION"] = "float32"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

gc.disable()  # until the tests' modules are imported: nothing of them is garbage


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny Llama and its tokenizer."""
    from toys import save_tiny  # torch takes seconds to import: only tests of models wait for it

    return save_tiny(tmp_path_factory.mktemp("tiny"))


def pytest_collection_finish() -> None:
    """The collector walks over what tests make, not over the millions of objects of modules."""
    gc.collect()
    gc.freeze()
    gc.enable()
