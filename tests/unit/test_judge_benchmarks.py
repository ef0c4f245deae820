"""The judges' benchmarks on toy data: numbers of a tiny model, and a table by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cai.records import chat_of

FOLDER = Path(__file__).parents[2] / "benchmarks"
CHAT = chat_of(("user", "Why is the sky blue?"))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import judge_features

    return judge_features


@pytest.fixture
def tries(benchmark: ModuleType) -> ModuleType:
    import judge_tries

    return judge_tries


@torch.no_grad()
def test_numbers_of_a_pair_are_those_of_the_model_alone(
    benchmark: ModuleType, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_PRECISION", "float32")
    features = benchmark.Features(f"local:{tiny_model}")
    replies = ["It scatters.", "No."]
    numbers = features.run_on(CHAT, *replies, "plain") | features.run_on(CHAT, *replies, "more")
    renderer, model = features.renderer, features.model
    contexts = {
        "plain": CHAT,
        "other": benchmark.OTHER_CHATS["other"],
        "empty": chat_of(("user", "")),
        "break": (benchmark.system_turn(benchmark.SYSTEMS["break"]), *CHAT),
    }
    for i, reply in enumerate(replies):
        ids = renderer.text_ids(reply)
        for name, chat in contexts.items():
            start = renderer.prompt_ids(chat)
            output = model(torch.tensor([start + ids]), output_hidden_states=True)
            logp_TV = output.logits[0].log_softmax(-1)[len(start) - 1 : -1]
            total = sum(float(logp_TV[t, token]) for t, token in enumerate(ids))
            assert numbers[name][i] == pytest.approx(total, abs=0.02), name
            if name == "plain":
                first_TE = output.hidden_states[1][0, len(start) :]
                expected = first_TE.mean(0).numpy()
                assert numbers["mean"][i, 0] == pytest.approx(expected, abs=0.01)
        asked = (*CHAT, *chat_of(("assistant", reply), ("user", benchmark.QUESTIONS[0])))
        logits_V = model(torch.tensor([renderer.prompt_ids(asked)])).logits[0, -1]
        yes, no = (renderer.text_ids(word)[0] for word in ("Yes", "No"))
        assert numbers["yes-1"][i] == pytest.approx(float(logits_V[yes] - logits_V[no]), abs=0.02)


def test_a_long_chat_loses_its_oldest_turns(benchmark: ModuleType, tiny_model: Path) -> None:
    """One token a byte: 320 hold the last turn, but neither the first nor a long single one."""
    renderer = benchmark.load_renderer(tiny_model)
    chat = chat_of(("user", "a" * 300), ("assistant", "b"), ("user", "c" * 50))
    assert benchmark.shortened(renderer, chat, 100) == chat[2:]
    (turn,) = benchmark.shortened(renderer, chat_of(("user", "x" * 400 + "y" * 400)), 100)
    assert turn.content.startswith("x")
    assert turn.content.endswith("y")
    assert len(renderer.prompt_ids((turn,))) + 100 <= benchmark.MAX_TOKENS + 8


def test_sets_are_read_shuffled_and_without_empty_replies(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "preference" / "hh_rlhf"
    folder.mkdir(parents=True)
    start = "\n\nHuman: Hi\n\nAssistant:"
    rows = [{"chosen": f"{start} good {i}", "rejected": f"{start} bad {i}"} for i in range(6)]
    rows[2]["rejected"] = start
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "harmless_base_test.jsonl").write_text(text, encoding="utf-8")
    pairs = benchmark.pairs_of("harmless", tmp_path)
    assert sorted(pair[1:] for pair in pairs) == [("good 0", "bad 0"), ("good 4", "bad 4")]


def test_harm_pairs_need_no_public_set(benchmark: ModuleType) -> None:
    for name in ("written", "misses"):
        pairs = benchmark.pairs_of(name, None)
        assert len(pairs) >= 60
        assert all(chat[-1].role == "user" and better != worse for chat, better, worse in pairs)


def toy_arrays(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The better reply is the shorter one, and its states lie one further along every dimension."""
    stream = np.random.default_rng(seed)
    tokens = stream.integers(5, 9, size=(count, 2)) + np.array([0, 5])
    states = stream.normal(size=(count, 2, 4, 3)) + np.array([2.0, 0.0])[None, :, None, None]
    arrays = {"tokens": tokens, "counted": tokens, "characters": 4 * tokens}
    arrays |= {"plain": -2.0 * tokens, "other": -2.0 * tokens - np.array([0, 6]), "end": tokens}
    arrays |= {"yes-1": np.zeros((count, 2))}
    return arrays | dict.fromkeys(("mean", "last", "answer-1"), states)


def test_the_table_by_hand(
    benchmark: ModuleType,
    tries: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The worse reply gains 6 nats by the prompt, the better one none: relevance is always wrong.

    Wilson's interval of 40 of 40 begins at 1 / (1 + z²/40) = 0.912.
    """
    more = {name: np.zeros((40, 2)) for name in ("abide", "break", "empty", "yes-2")}
    for name, part, arrays in (
        ("written", "plain", toy_arrays(40)),
        ("misses", "plain", toy_arrays(16, 1)),
        ("hhh", "plain", toy_arrays(40, 2)),
        ("hhh", "more", more),
    ):
        np.savez(tmp_path / f"{name}-{part}-0000.npz", **arrays)
    monkeypatch.setattr(sys, "argv", ["judge_tries.py", str(tmp_path)])
    tries.main()
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "1.000 [0.912, 1.000] n=40*" in lines["shortest reply"]
    assert "0.000 [0.000, 0.088] n=40-" in lines["relevance, sum"]
    assert "0.500 [0.352, 0.648] n=40 " in lines["P(yes), helpful and harmless"] + " "
    assert "n=40*" in lines["probe on written"]
    assert "0.500" in lines["contrast, sum"]


def test_without_features_the_table_says_what_to_run(
    tries: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["judge_tries.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"judge_features\.py"):
        tries.main()
