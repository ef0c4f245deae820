"""The command chat: the same text to all models, commands, faults, the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import Capture, CommandResult, run_command, run_file

import cai.lm
from cai.cli.chat_turns import ChatSettings, Conversation, Subject
from cai.errors import BackendError
from cai.lm import FakeLM
from cai.lm.fake import FAKES, uniform
from cai.lm.http import HttpConfig
from cai.records import Chat, chat_of

SLOW = """\
import sys, time
from cai.cli import main
from cai.lm.fake import FAKES, uniform
def slow(chat, seed):
    print("thinking", flush=True)
    time.sleep(60 if chat[-1].content == "slow" else 0)
    return "Answer to " + chat[-1].content
FAKES["slow"] = (slow, uniform)
main(["chat", "--model", "fake:slow"])
"""


def say(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, text: str | bytes, *arguments: object
) -> CommandResult:
    """Run the command with `text` on standard input, which is no terminal."""
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    return run_command(capsys, "chat", *arguments)


def conversation(*models: FakeLM) -> Conversation:
    subjects = [Subject(lm.fingerprint, lm) for lm in models]
    return Conversation(subjects, None, ChatSettings(64, 0.7, 0))


def test_replies_and_faults_reach_the_terminal_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def hostile(chat: Chat, seed: int) -> str:
        if chat[-1].content == "fail":
            raise BackendError("status 500: \x1b[2J")
        return "\x1b]0;pwned\x07[bold]text[/bold] :smile:\r\x1b[2K"

    monkeypatch.setitem(FAKES, "hostile", (hostile, uniform))
    result = say(monkeypatch, capsys, "hi\nfail\n", "--model", "fake:hostile")
    assert result.out == "fake:hostile\n[bold]text[/bold] :smile:\n\nfake:hostile\n"
    assert "\x1b" not in result.err


# ---- turns ----


def test_each_subject_has_turns_of_its_own() -> None:
    one, two = FakeLM(lambda chat, seed: "1"), FakeLM(lambda chat, seed: "2")
    talk = conversation(one, two)

    async def work() -> None:
        for text in ("a", "b"):
            for subject in talk.subjects:
                await talk.reply(subject, text)

    asyncio.run(work())
    assert one.calls[-1] == chat_of(("user", "a"), ("assistant", "1"), ("user", "b"))
    assert two.calls[-1] == chat_of(("user", "a"), ("assistant", "2"), ("user", "b"))
    talk.command("/reset")
    talk.command("/system Be brief.")
    asyncio.run(talk.reply(talk.subjects[0], "c"))
    assert one.calls[-1] == chat_of(("system", "Be brief."), ("user", "c"))
    talk.command("/system")
    asyncio.run(talk.reply(talk.subjects[0], "d"))
    assert one.calls[-1] == chat_of(("user", "d"))


def test_a_turn_without_an_answer_is_none(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """The other model answers, the next turn has no gap, and a script sees the exit code."""
    calls: list[Chat] = []

    def sometimes(chat: Chat, seed: int) -> str:
        calls.append(chat)
        if chat[-1].content == "fail":
            raise BackendError("status 500")
        return "" if chat[-1].content == "empty" else "Yes."

    monkeypatch.setitem(FAKES, "sometimes", (sometimes, uniform))
    models = ("--model", "fake:sometimes", "--model", "fake:echo")
    result = say(monkeypatch, capsys, "one\nfail\nempty\ntwo\n", *models)
    assert result.code == 1
    assert "cai: fake:sometimes: status 500" in result.err
    assert result.err.endswith("cai: chat: 2 replies failed\n")
    assert result.out.count("fake:echo\n") == 4
    assert calls[-1] == chat_of(("user", "one"), ("assistant", "Yes."), ("user", "two"))


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    text = "/kind benign\nHello\n/kind odd\n/kind\nHello\n/other\n/help\n/quit\nnever\n"
    models = ("--model", "fake:polite", "--constitution", "harmless")
    result = say(monkeypatch, capsys, text, *models)
    assert result.code == 0
    assert "class refused · style undesired_refusal · full refusal · score -" in result.out
    assert "no kind 'odd': disallowed, sensitive, benign" in result.out
    assert "full refusal (/kind adds class and style)" in result.out
    assert "no command '/other'" in result.out
    assert result.out.count("help with that") == 2


def test_a_cut_reply_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    result = say(monkeypatch, capsys, "one two three", "--model", "fake:echo", "--max-tokens", 2)
    assert result.out == "fake:echo\none two\ncut at 2 tokens\n\n"


def test_odd_input(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Blank lines are no turns; bytes that are no text are replaced; nothing at all is fine."""
    result = say(monkeypatch, capsys, b"\n  \n\xff\xfe ok", "--model", "fake:echo")
    assert (result.code, result.out) == (0, "fake:echo\n\ufffd\ufffd ok\n\n")
    assert say(monkeypatch, capsys, b"", "--model", "fake:echo").code == 0


# ---- models ----


def test_the_models_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    """Those that there are; the rubric is that of the run."""
    specs = []

    def opened(spec: str, http: object) -> FakeLM:
        specs.append(spec)
        return FakeLM(*FAKES["polite"])

    monkeypatch.setattr(cai.lm, "open_lm", opened)
    file, folder = run_file(tmp_path), tmp_path / "out"
    result = say(monkeypatch, capsys, "hi", file)
    assert specs == ["fake:polite"]
    assert "base\nI'm sorry" in result.out
    assert "full refusal" in result.out
    for name in ("20-sft", "60-policy"):
        (folder / name).mkdir(parents=True)
    say(monkeypatch, capsys, "hi", file)
    assert specs[1:] == ["fake:polite", f"local:{folder}/20-sft", f"local:{folder}/60-policy"]
    say(monkeypatch, capsys, "hi", file, "--only", "policy")
    assert specs[4:] == [f"local:{folder}/60-policy"]


def test_settings_of_endpoints(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    timeouts = []

    def opened(spec: str, http: HttpConfig) -> FakeLM:
        timeouts.append(http.timeout)
        return FakeLM(*FAKES["polite"])

    monkeypatch.setattr(cai.lm, "open_lm", opened)
    arguments = ("--model", "http://127.0.0.1:9/v1#m", "--set", "http.timeout=7")
    assert say(monkeypatch, capsys, "hi", *arguments).out.startswith("http://127.0.0.1:9/v1#m\n")
    assert timeouts == [7]


def test_a_tiny_model_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tiny_model: Path
) -> None:
    result = say(
        monkeypatch, capsys, "hi\nagain\n", "--model", f"local:{tiny_model}", "--max-tokens", 4
    )
    assert result.out.count(f"local:{tiny_model}\n") == 2
    assert "\x1b" not in result.out


def test_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    for arguments, message in (
        ((), "give a run, or one or more --model"),
        ((file, "--model", "fake:echo"), "give a run, or one or more --model"),
        ((file, "--constitution", "harmless"), "constitution of its own"),
        ((file, "--only", "policy"), "--only policy: the run has base"),
        (("--model", "fake:echo", "--only", "base"), "--only chooses among a run's models"),
        (("--model", "fake:echo", "--set", "ppo.seed=1"), "only the sections http and prices"),
        (("--model", "fake:none"), "no such fake"),
        (("--model", "fake:echo", "--constitution", "none"), "none: no such"),
    ):
        result = say(monkeypatch, capsys, "hi", *arguments)
        assert result.code == 2
        assert message in result.err
    secret = say(monkeypatch, capsys, "hi", "--model", "http://user:hush@host/v1#m")
    assert secret.code == 2
    assert "hush" not in secret.err


# ---- a real terminal ----


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self) -> None:
        self.end, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOW], stdin=other, stdout=other, stderr=other,
            env=os.environ | {"TERM": "dumb"}, start_new_session=True,
        )  # fmt: skip
        os.close(other)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` was printed after what was waited for before."""
        end = time.monotonic() + 60
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.end], [], [], 1)[0]:
                self.text += os.read(self.end, 1 << 16).decode()
        self.text = self.text.partition(text)[2]

    def end_by(self, number: int) -> int:
        """Its exit status after a signal, which is sent again while nothing happens: one that comes
        just before the prompt waits for a key is only seen with that key.
        """
        for _ in range(60):
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)
                break
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(timeout=120)
        os.close(self.end)
        return code


def test_control_keys() -> None:
    """Ctrl-C stops a reply and not the command; at the prompt it ends it, as Ctrl-D does."""
    terminal = Terminal()
    terminal.wait_for("> ")
    terminal.type("slow\n")
    terminal.wait_for("thinking")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("stopped")
    terminal.wait_for("> ")
    terminal.type("quick\n")
    terminal.wait_for("Answer to quick")
    terminal.wait_for("> ")
    assert terminal.end_by(signal.SIGINT) == 0


@pytest.mark.parametrize(("key", "number", "code"), [("\x04", 0, 0), ("", signal.SIGTERM, 143)])
def test_ends_of_a_chat(key: str, number: int, code: int) -> None:
    terminal = Terminal()
    terminal.wait_for("> ")
    if key:
        terminal.type(key)
        assert terminal.ended() == code
    else:
        assert terminal.end_by(number) == code
