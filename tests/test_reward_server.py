"""The reward over HTTP and the plug-ins that ask for it: limits, tokens, crowds, wrong bodies, the engines' own calls."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from cai import store
from cai.cli import main
from cai.cli.serve import rubric_score
from cai.errors import StoreError
from cai.records import Prompt, chat_of
from cai.reward.combine import RewardMix
from cai.scale.exports import export_engine
from cai.scale.reward_server import Limits, RewardServer, Table
from cai.scale.trl_reward import reward_function

TOKEN = "secret"
LIMITS = Limits(body=20_000, rows=8, text=5_000, batch=16, wait=0.002, answer=5.0)
PLUGINS = Path(__file__).parents[1] / "cai" / "scale" / "plugins"


def by_length(prompts: Sequence[Prompt], replies: Sequence[str]) -> Table:
    """Words of the reply; nobody knows about a reply that says `who knows`; a reply that says `boom` breaks the model."""
    if any("boom" in reply for reply in replies):
        raise RuntimeError("a private detail")
    words = [None if "who knows" in reply else float(len(reply.split())) for reply in replies]
    return {"pm": words, "rubric": [1.0 if prompt.kind == "benign" else 0.0 for prompt in prompts]}


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    running = RewardServer(("127.0.0.1", 0), by_length, TOKEN, LIMITS)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def ask(server: RewardServer, path: str, body: Any, token: str = TOKEN, method: str = "POST") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    said = json.loads(answer.read())
    connection.close()
    return answer.status, said


def test_rewards_by_part(server: RewardServer) -> None:
    rows = [
        {"prompt": "Hi", "response": "one two", "kind": "benign"},
        {"chat": [{"role": "user", "content": "Hi"}], "response": "who knows"},
    ]
    assert ask(server, "/score", {"rows": rows}) == (
        200,
        {"rewards": [3.0, None], "parts": {"pm": [2.0, None], "rubric": [1.0, 0.0]}},
    )
    assert ask(server, "/score", {"rows": []}) == (200, {"rewards": [], "parts": {}})
    assert ask(server, "/health", b"", method="GET")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 10_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        ([], 400, "JSON object"),
        ({"rows": "x"}, 400, "list of objects"),
        ({"rows": [{"prompt": "a"}]}, 400, "rows.0: `response` must be text"),
        ({"rows": [{"response": "a"}]}, 400, "rows.0"),
        ({"rows": [{"prompt": "a", "response": "b", "kind": "odd"}]}, 400, "kind"),
        ({"rows": [{"chat": [{"role": "assistant", "content": "x"}], "response": "b"}]}, 400, "rows.0"),
        ({"rows": [{"prompt": "a", "response": "b"}] * 9}, 413, "at most 8"),
        ({"rows": [{"prompt": "a", "response": "b" * 6000}]}, 413, "more than 5000 characters"),
        ({"rows": [{"prompt": "a", "response": "b" * 30_000}]}, 413, "more than 20000 bytes"),
        ({"rows": [{"prompt": "a", "response": "boom"}]}, 500, "the reward failed: RuntimeError"),
    ],
)
def test_wrong_bodies(server: RewardServer, body: Any, status: int, why: str) -> None:
    """One line of why, the server goes on, and nothing private is told."""
    code, said = ask(server, "/score", body)
    assert (code, why in said["error"]) == (status, True), said
    assert "private" not in said["error"]
    assert ask(server, "/score", {"rows": [{"prompt": "a", "response": "b"}]})[0] == 200


@pytest.mark.parametrize("token", ["", "wrong", "secre", "secret2", "ü"])
def test_a_wrong_token_learns_nothing(server: RewardServer, token: str) -> None:
    code, said = ask(server, "/score", {"rows": [{"prompt": "a", "response": "b"}]}, token=token.encode().decode("latin-1"))
    assert code == 401
    assert TOKEN not in said["error"].replace("wrong token", "")


def test_no_such_place(server: RewardServer) -> None:
    assert ask(server, "/elsewhere", {})[0] == 404
    assert ask(server, "/elsewhere", b"", method="GET")[0] == 404


def test_a_thousand_requests_at_once(server: RewardServer) -> None:
    """Each gets its own answer."""

    def one(i: int) -> tuple[int, Any]:
        return ask(server, "/score", {"rows": [{"prompt": "a", "response": "w " * (i % 50), "kind": "benign"}]})

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(one, range(1000)))
    assert [said["rewards"] for code, said in found if code == 200] == [[i % 50 + 1.0] for i in range(1000)]


# ---- plug-ins, at the engines' call sites ----


def plugin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PLUGINS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def told(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("CAI_REWARD_URL", url)
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
    return url


def test_openrlhf_gets_tensors(told: str) -> None:
    """Called in threads with one row, as the engine does; the label brings kind and chat."""
    label = json.dumps({"kind": "benign", "chat": [{"role": "user", "content": "Hi"}]})
    call = lambda: plugin("openrlhf_reward").reward_func(["<s>Hi a b c"], ["<s>Hi"], [label])  # noqa: E731
    found = asyncio.run(asyncio.wait_for(asyncio.to_thread(call), 20))
    assert found["rewards"].tolist() == [4.0]
    assert 0 < found["scores"].item() < 1
    assert {k: v.tolist() for k, v in found["extra_logs"].items()} == {"pm": [3.0], "rubric": [1.0], "cai_error": [0.0]}


@pytest.mark.parametrize("label", [None, "no JSON", "3", json.dumps({"kind": "odd"})])
@pytest.mark.parametrize("reply", ["a b", "who knows", "boom", "x" * 9000])
def test_openrlhf_never_raises(told: str, label: str | None, reply: str) -> None:
    found = plugin("openrlhf_reward").reward_func([f"Hi {reply}"], ["Hi"], [label])
    assert found["rewards"].shape == found["scores"].shape == (1,)
    good = reply == "a b" and label != json.dumps({"kind": "odd"})
    assert found["extra_logs"]["cai_error"].tolist() == [0.0 if good else 1.0]


def test_openrlhf_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_REWARD_URL", "http://127.0.0.1:9")
    found = plugin("openrlhf_reward").reward_func(["a", "b"], ["a", "b"], None)
    assert found["extra_logs"]["cai_error"].tolist() == [1.0, 1.0]


def test_verl_has_always_the_same_keys(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score = plugin("verl_reward").compute_score
    about = {"chat": json.dumps([{"role": "user", "content": "Hi"}]), "kind": "benign"}
    right = score("cai", "a b", "", about)
    assert (right["score"], right["pm"], right["cai_error"]) == (3.0, 2.0, 0.0)
    others = [score("cai", "who knows", "", about), score("cai", "a", "", None), score("cai", "boom", "", about)]
    others.append(score("cai", "a", "", about, server_url="http://127.0.0.1:9"))
    assert all(found.keys() == right.keys() for found in others)
    assert [found["cai_error"] for found in others] == [1.0] * 4


def test_verl_has_a_key_for_every_part_of_the_reward() -> None:
    """Each setting of the mix but the free words is a part; one that the plug-in did not know would silently vanish."""
    parts = set(RewardMix.model_fields) - {"free_words"}
    assert set(plugin("verl_reward").KEYS) == parts | {"score", "cai_error"}


def test_trl_gets_none_where_nobody_knows() -> None:
    reward = reward_function(by_length)
    chat = [{"role": "user", "content": "Hi"}]
    said = [[{"role": "assistant", "content": text}] for text in ("a b", "who knows")]
    assert reward(prompts=[chat, chat], completions=said, kind=["benign", None], completion_ids=[[1], [2]]) == [3.0, None]
    assert reward(prompts=["Hi"], completions=["a"]) == [1.0]


def test_exports_for_engines(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}")), kind="benign") for i in range(3)]
    store.begin(run / "00-prompts.jsonl", "prompts", {"seed": "0"})
    store.append(run / "00-prompts.jsonl", prompts)
    store.finish(run / "00-prompts.jsonl")
    assert export_engine(run, tmp_path / "verl", "verl") == 3
    row = pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist()[0]
    assert set(row) == {"data_source", "prompt", "reward_model", "extra_info"}
    assert json.loads(row["extra_info"]["chat"]) == row["prompt"] == [{"role": "user", "content": "ask 0"}]
    assert row["reward_model"]["ground_truth"] == ""
    assert export_engine(run, tmp_path / "openrlhf", "openrlhf") == 3
    first = json.loads((tmp_path / "openrlhf" / "train.jsonl").read_text().splitlines()[0])
    assert json.loads(first["label"])["kind"] == "benign"
    for engine in ("verl", "openrlhf"):
        name = f"{engine}_reward.py"
        assert (tmp_path / engine / name).read_text() == (PLUGINS / name).read_text()
    with pytest.raises(StoreError, match="exists already"):
        export_engine(run, tmp_path / "verl", "verl")


def test_a_rubric_alone_is_a_reward() -> None:
    prompt = Prompt(chat=chat_of(("user", "Do harm.")), kind="disallowed")
    [good, bad] = rubric_score("harmless")([prompt] * 2, ["I'm sorry, I can't help with that.", "Step one is to begin."])[
        "rubric"
    ]
    assert good is not None
    assert bad is not None
    assert good > bad


def test_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for given, why in (([], "give a run"), ([str(tmp_path)], "no run in it"), (["--constitution", "none"], "no such file")):
        with pytest.raises(SystemExit) as ended:
            main(["serve-reward", *given])
        assert ended.value.code == 2
        assert why in capsys.readouterr().err
