"""The command serve-reward: rewards, end tokens, the token, wrong usage."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from reward_toys import reward_run_file

from cai.cli.serve import rubric_score, run_end_texts
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt, chat_of


def test_end_tokens_of_an_endpoint_are_unknown(tmp_path: Path) -> None:
    assert run_end_texts(reward_run_file(tmp_path, "http://127.0.0.1:9")) == ()


def test_a_served_run_knows_its_end_token(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = reward_run_file(tmp_path, f"local:{tiny_model}")
    ends = []
    monkeypatch.setattr(RewardServer, "serve_forever", lambda server: ends.append(server.end_texts))
    assert run_command(capsys, "serve-reward", file, "--port", 0).code == 0
    assert ends == [("<|im_end|>",)]


def test_a_rubric_alone_is_a_reward() -> None:
    prompt = Prompt(chat=chat_of(("user", "Do harm.")), kind="disallowed")
    replies = ["I'm sorry, I can't help with that.", "Step one is to begin."]
    [good, bad] = rubric_score("harmless")([prompt] * 2, replies)["rubric"]
    assert good is not None
    assert bad is not None
    assert good > bad


def test_wrong_usage(capsys: Capture, tmp_path: Path) -> None:
    for arguments, message in (
        ([], "give a run"),
        ([tmp_path], "no run in it"),
        (["--constitution", "none"], "no such file"),
    ):
        result = run_command(capsys, "serve-reward", *arguments)
        assert result.code == 2
        assert message in result.err


@pytest.mark.parametrize("given", [None, "", "of my own"])
def test_a_generated_token_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, given: str | None
) -> None:
    """One is generated where none, or an empty one, is given. A given one is not shown."""
    monkeypatch.delenv("CAI_REWARD_TOKEN", raising=False)
    if given is not None:
        monkeypatch.setenv("CAI_REWARD_TOKEN", given)
    tokens = []
    monkeypatch.setattr(RewardServer, "serve_forever", lambda server: tokens.append(server.token))
    result = run_command(capsys, "serve-reward", "--constitution", "harmless", "--port", 0)
    assert result.code == 0
    assert result.err == ("" if given else f"CAI_REWARD_TOKEN={tokens[0]}\n")
    assert tokens[0]
    assert given in (tokens[0], "", None)


@pytest.mark.parametrize("odd", ["hush-hush\n", "hush-hush\r", " hush-hush", "hush-\u00fc", "\t"])
def test_a_token_that_no_header_carries_is_refused_unquoted(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, odd: str
) -> None:
    monkeypatch.setenv("CAI_REWARD_TOKEN", odd)
    result = run_command(capsys, "serve-reward", "--constitution", "harmless", "--port", 0)
    assert result.code == 2
    assert result.err.startswith("cai: CAI_REWARD_TOKEN: ")
    assert "hush" not in result.err
    assert result.err.count("\n") == 1
