"""Commands with marked secrets against servers that repeat what they get: no mark may come out.

The marks are a key in the environment, a proxy's password in the environment, and a password in an
address or another setting. They end in what a file or a clipboard leaves there. A run is in this
process, with an endpoint without a network, or in one of its own, with a server on the loopback.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import aiohttp
from canned import Canned, CannedLM, Request, choice_answer, reply_answer
from file_tools import COMMANDS, write_inputs
from json_lines import write_lines
from tenacity import wait_none

import cai.cli
import cai.constitution
import cai.lm
import cai.rubric
from cai.lm import http
from cai.rubric import compile_rubric

WINDOW = 12
"""Characters of a secret that must not be found anywhere."""
ENDINGS = ("", "", "", "\r", "\n", "\r\n", " ", "\t", "é", "\u2028", "\x7f", "=")
CHARACTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789/+-_"
RUN = {
    "name": "fuzz",
    "constitution": "assistant",
    "prompts": ["prompts.jsonl"],
    "held_out": 0.5,
    "folder": "out",
    "revise": {"rounds": 1, "helpful_samples": 1},
}
STATUSES = [200] * 60 + [400, 418, 422, 429, 500, 503] * 5 + [401, 403, 404, 302, 307]
RUN_COMMANDS = ("run", "plan", "revise run.yaml")


class Secrets(NamedTuple):
    key: str
    proxy: str
    address: str

    def windows(self) -> set[str]:
        """Texts of `WINDOW` characters, from all over each secret and its spellings."""
        texts = [text.strip() for text in self]
        texts.append(base64.b64encode(f"me:{self.proxy}".encode()).decode())
        result = set()
        for text in texts:
            starts = range(0, len(text) - WINDOW + 1, max(1, len(text) // 64))
            result |= {text[start : start + WINDOW] for start in starts}
        return {window for window in result if window.isascii()}


class Case(NamedTuple):
    """One command with its environment and files."""

    arguments: list[str]
    environment: dict[str, str]
    settings: dict[str, Any]
    secrets: Secrets
    proxied: bool
    """Whether the server gets the proxy's password."""


def draw_secret(stream: random.Random, name: str) -> str:
    length = 20_000 if stream.random() < 0.05 else stream.randrange(24, 80)
    return f"MARK-{name}-" + "".join(stream.choice(CHARACTERS) for _ in range(length))


def draw_case(
    stream: random.Random, port: int, commands: Sequence[str] = (*COMMANDS, *RUN_COMMANDS)
) -> Case:
    """A command against `127.0.0.1:port`, directly or as the proxy of a host that does not exist.

    Most cases are usable, so that a server gets to answer.
    """
    secrets = Secrets(*(draw_secret(stream, name) for name in ("key", "proxy", "address")))
    key_end = stream.choice(ENDINGS) if stream.random() < 0.15 else ""
    proxied = stream.random() < 0.4
    host = "example.invalid" if proxied else f"127.0.0.1:{port}"
    password = secrets.proxy.replace("/", "%2F") + (
        stream.choice(ENDINGS) if stream.random() < 0.1 else ""
    )
    scheme = stream.choice([*["http"] * 8, "socks5", "ftp"]) if proxied else "http"
    proxy_host = stream.choice([f"127.0.0.1:{port}"] * 20 + ["127.0.0.1:99999", "[::1", ""])
    proxy = f"{scheme}://me:{password}@{proxy_host}"
    address = f"http://{host}/v1#toy"
    settings: dict[str, Any] = {}
    options: list[str] = []
    if stream.random() < 0.2:  # the secret is where it does not belong
        address, options, settings = misplaced(stream, secrets.address, host)
    elif stream.random() < 0.5:
        options = ["--set", "http.connections=2"]
    environment = {
        "CAI_API_KEY": secrets.key + key_end,
        stream.choice(["http_proxy", "HTTP_PROXY"]): proxy,
    }
    command = stream.choice(commands)
    model = (
        {"model": address} if stream.random() < 0.7 else {"judge": address, "model": "fake:echo"}
    )
    if command in RUN_COMMANDS:
        arguments = [*command.split(), *options]
        if "run.yaml" not in arguments:
            arguments.insert(1, "run.yaml")
        if command == "run":
            arguments += ["--until", "revise"]
        if stream.random() < 0.3:
            arguments += [part for name in model for part in ("--set", f"{name}={model[name]}")]
            model = {}
        return Case(arguments, environment, RUN | model | settings, secrets, proxied)
    arguments = [command, "--model", address, *COMMANDS[command], *options]
    return Case(arguments, environment, dict(RUN), secrets, proxied)


def misplaced(
    stream: random.Random, secret: str, host: str
) -> tuple[str, list[str], dict[str, Any]]:
    """(address, options, settings of a run) with a secret in one of them."""
    end = stream.choice(ENDINGS)
    forms = [
        f"http://:{secret}@{host}/v1#toy{end}", f"http://me:{secret}{end}@{host}/v1#toy",
        f"https://{secret}@{host}/v1#toy", f"htp://me:{secret}@{host}/v1#toy",
        f"me:{secret}@{host}/v1#toy", f" http://me:{secret}@{host}/v1#toy",
        f"http:/me:{secret}@{host}/v1#toy", f"http:me:{secret}@{host}#toy",
        f"http://{host}/v1?key={secret}{end}#toy", f"http://me:{secret}@[::1/v1#toy",
        f"http://me:p#{secret}@{host}/v1#toy", f"http://me:{secret}@{host}:x/v1",
    ]  # fmt: skip
    plain = f"http://{host}/v1#toy"
    choice = stream.randrange(4)
    if choice == 0:
        name = stream.choice(["http.api_key", "api_key", "http.key", "http.headers.key"])
        return plain, ["--set", f"{name}={secret}{end}"], {}
    if choice == 1:
        return plain, [], {"http": {"api_key": secret + end}}
    if choice == 2:
        return plain, [], {stream.choice(["api_key", "key", "Authorization"]): secret + end}
    return stream.choice(forms), [], {}


# ---- servers that repeat what they get ----


def spelled(stream: random.Random, text: str) -> bytes:
    """A text as JSON, with characters escaped as PHP does, or all of them."""
    encoded = json.dumps(text)
    how = stream.random()
    if how < 0.3:
        encoded = encoded.replace("/", "\\/")
    elif how < 0.5:
        encoded = '"' + "".join(f"\\u{ord(char):04x}" for char in text if ord(char) < 65536) + '"'
    return encoded.encode("utf-8", "replace")


def hostile_answer(stream: random.Random, body: dict[str, Any], words: str) -> Canned:
    """A response with `words`, the request's secrets among them, wherever it can have some."""
    words = "x" * stream.randrange(250) + words
    status = stream.choice(STATUSES)
    headers = [("location", quoted(words)), ("retry-after", "0"), ("x-echo", quoted(words))]
    if status != 200:
        data = b'{"error": {"message": ' + spelled(stream, words) + b"}}"
        data = stream.choice([data, words.encode("utf-8", "replace")])
    else:
        mark = "@@@"
        if body.get("logprobs"):
            answer = choice_answer(("A", -0.2), (" B", -2.0), ("Yes", -3.0), (mark, -4.0))
        else:
            answer = reply_answer(stream.choice([mark, f"Well {mark}", None]))
        choice = answer["choices"][0]
        choice["finish_reason"] = stream.choice(["stop", "stop", "stop", mark, "length"])
        choice["message"]["refusal"] = stream.choice([None, mark])
        if stream.random() < 0.15:
            answer = {"error": {"message": mark, "code": stream.choice([None, 500, mark])}}
        data = (
            json.dumps(answer).encode().replace(b'"' + mark.encode() + b'"', spelled(stream, words))
        )
        data = data.replace(mark.encode(), words.encode("utf-8", "replace"))
    if stream.random() < 0.25:  # cut, also within a secret
        data = data[: stream.randrange(1, len(data))]
    if stream.random() < 0.15:
        data = gzip.compress(data)
        headers.append(("content-encoding", "gzip"))
    return Canned(data, status, headers)


def quoted(words: str) -> str:
    return "".join(char for char in words if "!" <= char <= "~")[:4000]


def echo(headers: Any, secrets: Secrets, *, proxied: bool) -> str:
    """What the request holds, and what a proxy would get, as whole or as a part."""
    sent = [str(headers.get(name, "")) for name in ("authorization", "proxy-authorization")]
    return " ".join([*sent, secrets.key[:4000], *([secrets.proxy[:4000]] if proxied else [])])


def canned_model(stream: random.Random, case: Case) -> Any:
    """For `cai.lm.HttpLM`: an endpoint without a network; some of its connections are reset."""

    def respond(body: dict[str, Any], request: Request) -> Canned:
        words = echo(request.headers, case.secrets, proxied=case.proxied)
        if stream.random() < 0.1:
            raise stream.choice(
                [
                    aiohttp.ClientOSError(104, words),
                    aiohttp.ClientConnectorError(mock.Mock(), OSError(111, words)),
                    aiohttp.ServerDisconnectedError(words),
                    aiohttp.ClientPayloadError(words),
                ]
            )
        return hostile_answer(stream, body, words)

    return lambda spec, config: CannedLM(respond, config, spec=spec)


class HostileServer:
    """A server on the loopback, which is a proxy too."""

    def __init__(self) -> None:
        self.stream, self.secrets = random.Random(0), Secrets("", "", "")
        self.proxied = False
        self.requests = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.answer(self)

            def do_CONNECT(self) -> None:
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.lock = threading.Lock()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.requests += 1
            canned = hostile_answer(
                self.stream, body, echo(handler.headers, self.secrets, proxied=self.proxied)
            )
            fault = self.stream.random()
        if fault < 0.05:  # a reset
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return
        handler.send_response(canned.status)
        for name, value in canned.headers:
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(canned.body) + (7 if fault < 0.1 else 0)))
        handler.end_headers()
        handler.wfile.write(canned.body)
        handler.close_connection = True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


# ---- one run ----


def write_case(folder: Path, case: Case) -> set[Path]:
    """The inputs of a case, which hold its secrets as the user gave them."""
    folder.mkdir(parents=True)
    write_inputs(folder, 4)
    kinds = ("disallowed", "benign")
    prompts = [{"prompt": f"Ask {kind} {i}", "kind": kind} for kind in kinds for i in range(4)]
    write_lines(folder / "prompts.jsonl", *prompts)
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in case.settings.items())
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return set(folder.iterdir())


_load_once = functools.cache(cai.constitution.load_constitution)
_COMPILED: dict[str, Any] = {}


def _compile_once(rubric: Any) -> Any:
    """Compiled rubrics by content: to compile one takes longer than most commands."""
    content = rubric.model_dump_json()
    if content not in _COMPILED:
        _COMPILED[content] = compile_rubric(rubric)
    return _COMPILED[content]


def run_here(case: Case, folder: Path, stream: random.Random) -> tuple[Any, str]:
    """(exit code, both streams) of the command in this process."""
    streams = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    model = canned_model(stream, case)
    code: Any = 0
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment | case.environment, clear=True),
        mock.patch.object(cai.lm, "HttpLM", model),
        mock.patch.object(cai.constitution, "load_constitution", _load_once),
        mock.patch.object(cai.rubric, "compile_rubric", _compile_once),
        mock.patch.object(http, "retry_wait", wait_none()),
        contextlib.redirect_stdout(streams),
        contextlib.redirect_stderr(streams),
    ):
        try:
            cai.cli.main(case.arguments)
        except SystemExit as ended:
            code = ended.code
    streams.flush()
    return code, streams.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


def run_there(case: Case, folder: Path) -> tuple[Any, str]:
    """The same in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= case.environment
    environment["PYTHONPATH"] = str(Path(cai.cli.__file__).parents[2])
    attempts = [] if case.arguments[0] in RUN_COMMANDS else ["--set", "http.attempts=2"]
    done = subprocess.run(
        [sys.executable, "-m", "cai.cli", *case.arguments, *attempts],
        cwd=folder, env=environment, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def leaks(case: Case, folder: Path, inputs: set[Path], output: str) -> Iterator[str]:
    """Where a part of a secret is: a stream, or a file that the command wrote."""
    windows = case.secrets.windows()
    texts = {"streams": output}
    for path in folder.rglob("*"):
        if path.is_file() and path not in inputs:
            texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
    for place, text in texts.items():
        for spelling in (text, text.replace("\\/", "/")):
            if any(window in spelling for window in windows):
                yield place
                break


def fuzz_keys(
    folder: Path,
    runs: int,
    seed: int,
    processes: int = 0,
    commands: Sequence[str] = (*COMMANDS, *RUN_COMMANDS),
) -> Counter[str]:
    """`runs` of the commands, the first `processes` of them in processes of their own.

    Returns:
        Counts of exit codes and requests; under "leaks" the runs that let a part of a secret out.
    """
    counts: Counter[str] = Counter()
    server = HostileServer() if processes else None
    for number in range(runs):
        stream = random.Random(f"{seed} {number}")
        is_process = number < processes
        case = draw_case(stream, server.port if server and is_process else 1, commands)
        place = folder / str(number)
        inputs = write_case(place, case)
        if server is not None and is_process:
            server.stream, server.secrets, server.proxied = stream, case.secrets, case.proxied
            code, output = run_there(case, place)
        else:
            code, output = run_here(case, place, stream)
        counts[f"exit {code}"] += 1
        counts["processes" if is_process else "in process"] += 1
        found = list(leaks(case, place, inputs, output))
        if found or "Traceback" in output or code not in (0, 1, 2):
            counts["leaks" if found else "tracebacks"] += 1
            print(number, case.arguments, code, found, output[:1500], file=sys.__stderr__)
    if server is not None:
        counts["requests to the server"] = server.requests
        server.close()
    return counts
