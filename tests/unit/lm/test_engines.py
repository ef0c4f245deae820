"""vLLM and SGLang as children, with a stand-in for their programs: start, key, health, end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lm_calls import run_calls

from cai.errors import BackendError, UsageError
from cai.lm import engines, open_lm
from cai.lm.engines import EngineServer, is_endpoint
from cai.lm.http import HttpConfig, HttpLM
from cai.records import chat_of

STANDIN = Path(__file__).parents[2] / "engine_standin.py"
HELLO = chat_of(("user", "hello"))
MODEL = "some-org/some-model"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both engines, as stand-ins; the path of what they report of themselves."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{STANDIN.read_text(encoding='utf-8')}")
    program.chmod(0o755)
    package = tmp_path / "packages" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(STANDIN, package / "launch_server.py")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("STANDIN_REPORT", str(tmp_path / "report.json"))
    monkeypatch.delenv("STANDIN_MODE", raising=False)
    monkeypatch.delenv(engines.ARGUMENTS_VARIABLE, raising=False)
    monkeypatch.setattr(engines, "POLL_SECONDS", 0.02)
    return tmp_path / "report.json"


def report(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for_end(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, "the engine is still there"
        time.sleep(0.02)


def say(lm: HttpLM) -> str:
    async def work() -> str:
        try:
            sample = await lm.sample(HELLO, max_tokens=5, temperature=0.0, seed=0)
            return sample.text
        finally:
            await lm.aclose()

    return asyncio.run(work())


async def lm_choice(lm: HttpLM) -> list[float] | None:
    try:
        return await lm.choice_logprobs(HELLO, ("A", "B"))
    finally:
        await lm.aclose()


def opened(kind: str, **config: Any) -> HttpLM:
    lm = open_lm(f"{kind}:{MODEL}", HttpConfig(**config))
    assert isinstance(lm, HttpLM)
    return lm


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_engine_answers_and_ends(
    kind: str,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It starts with the first call, answers in several event loops, and is gone, with its worker,
    when the model is dropped. The key stands in no message, and in no argument of vLLM.
    """
    monkeypatch.setenv("CAI_API_KEY", "of-another-endpoint")
    lm = opened(kind)
    assert not installed.exists()
    assert say(lm) == say(lm) == "A reply."

    assert asyncio.run(lm_choice(lm)) == pytest.approx([-0.25, -1.5])
    child = report(installed)
    assert lm.server is not None
    words, key, port = child["argv"][1:], lm.server.key, str(lm.server.port)
    common = ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", port]
    if kind == "vllm":
        options = ["--enable-prefix-caching", "--max-logprobs", "20", "--generation-config", "vllm"]
        assert words == ["serve", MODEL, *options, *common]
    else:
        options = ["--model-path", MODEL, "--api-key", key, "--sampling-defaults", "openai"]
        assert words == [*options, *common]
    assert not child["sees_cai_key"]
    assert runs(child["pid"])
    assert lm.fingerprint == f"{kind}:{MODEL}"
    del lm
    gc.collect()
    wait_for_end(child["pid"], child["worker"])
    output = capfd.readouterr()
    assert output.err == f"cai: {kind}: starting {MODEL}\n"
    assert key not in output.out + output.err


def test_many_calls_start_one_engine(installed: Path) -> None:
    lm = opened("vllm")

    async def work(lm: HttpLM) -> list[str]:
        calls = [lm.sample(HELLO, max_tokens=5, temperature=0.0, seed=i) for i in range(50)]
        return [sample.text for sample in await asyncio.gather(*calls)]

    assert run_calls(lm, work) == ["A reply."] * 50
    assert lm.server is not None
    lm.server.end()
    wait_for_end(report(installed)["pid"])


def test_one_that_is_never_healthy(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_MODE", "never")
    lm = opened("sglang", start_timeout=1.0)
    with pytest.raises(BackendError, match=r"not healthy after 1 s \(http\.start_timeout\)") as e:
        say(lm)
    assert lm.server is not None
    assert str(e.value).endswith("its last log line: INFO server_args: api_key='***'")
    wait_for_end(report(installed)["pid"])


def test_one_that_dies_says_why(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_MODE", "dies")
    lm = opened("vllm")
    with pytest.raises(BackendError) as caught:
        say(lm)
    assert str(caught.value) == (
        f"vllm {MODEL}: ended with exit code 3; "
        "its last log line: ValueError: no room for the KV cache of ***"
    )
    wait_for_end(report(installed)["worker"])


def test_one_that_dies_between_calls(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_MODE", "dies later")
    lm = opened("vllm")
    assert say(lm) == "A reply."
    wait_for_end(report(installed)["pid"])
    assert lm.server is not None
    assert lm.server._process is not None
    lm.server._process.wait(20)
    with pytest.raises(BackendError, match="exit code 1; its last log line: CUDA error: an ill"):
        say(lm)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_parent(installed: Path, signal_number: signal.Signals) -> None:
    """Ctrl-C, and a kill that nothing can be done about."""
    code = (
        "import asyncio; from cai.lm import engines; engines.POLL_SECONDS = 0.02\n"
        f"server = engines.EngineServer('vllm', {MODEL!r}, 30.0)\n"
        "asyncio.run(server.ready()); print('ready', flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(STANDIN.parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        child = report(installed)
        assert runs(child["pid"])
        parent.send_signal(signal_number)
    wait_for_end(child["pid"], child["worker"])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "_program", engines._program)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="no program vllm in PATH or beside cai: pip install vllm"):
        open_lm(f"vllm:{MODEL}")
    with pytest.raises(UsageError, match="is not installed beside cai: pip install 'sglang"):
        open_lm(f"sglang:{MODEL}")


@pytest.mark.parametrize("spec", ["vllm:", "sglang:--trust-remote-code"])
def test_a_name_is_no_option(spec: str) -> None:
    with pytest.raises(UsageError, match="write it as"):
        open_lm(spec)


def test_further_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the fingerprint; those that cai sets are refused."""
    monkeypatch.setenv(engines.ARGUMENTS_VARIABLE, "--max-model-len 4096 --dtype=bfloat16")
    server = EngineServer("vllm", MODEL, 1.0)
    assert server.command()[-3:] == ["--max-model-len", "4096", "--dtype=bfloat16"]
    assert server.fingerprint == f"vllm:{MODEL} --max-model-len 4096 --dtype=bfloat16"
    monkeypatch.setenv(engines.ARGUMENTS_VARIABLE, "--port=80")
    with pytest.raises(UsageError, match=r"CAI_ENGINE_ARGS: --port is set by cai"):
        EngineServer("vllm", MODEL, 1.0)
    monkeypatch.setenv(engines.ARGUMENTS_VARIABLE, "'open")
    with pytest.raises(UsageError, match="CAI_ENGINE_ARGS: No closing quotation"):
        EngineServer("vllm", MODEL, 1.0)


def test_a_folder_is_named_by_its_content(tiny_model: Path) -> None:
    first = EngineServer("vllm", str(tiny_model), 1.0).fingerprint
    assert first.startswith(f"vllm:{tiny_model} ")
    assert len(first) > len(f"vllm:{tiny_model} ") + 10


def test_thinking_is_an_option_of_the_spec() -> None:
    lm = open_lm(f"vllm:{MODEL}?thinking=off")
    assert isinstance(lm, HttpLM)
    assert lm.fingerprint == f"vllm:{MODEL}?thinking=off"
    assert lm.thinking.mode == "off"


def test_specs_of_endpoints() -> None:
    assert all(map(is_endpoint, ("http://h/v1#m", "https://h/v1#m", "vllm:m", "sglang:o/m")))
    assert not any(map(is_endpoint, ("smollm2", "local:m", "fake:echo", "vllm")))
