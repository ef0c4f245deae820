"""A headless Chromium for tests of pages: open a file, evaluate, press keys, take pictures.

It is spoken to over a pipe in its own protocol (the DevTools protocol), so that no package is
needed. Left out: more than one page at a time, and everything that needs a network.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --remote-debugging-pipe"
)
SECONDS = 60
"""To wait for one answer: machines of tests are slow at times."""


class Page:
    """One page of the browser. `problems` has what a user would find on the console."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer = send, receive, b""
        self._last_id = 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], SECONDS)
            assert ready, f"no answer from the browser in {SECONDS} s"
            block = os.read(self._receive, 1 << 20)
            assert block, "the browser has ended"
            self._buffer += block
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, data: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif event == "Log.entryAdded":
            self.problems.append(data["entry"]["text"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.problems.append(json.dumps(data))
        elif event == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {data['message']}")

    def goto(self, url: str) -> None:
        """Begin to load an address."""
        self.call("Page.navigate", url=url)

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is there."""
        self.goto(path.as_uri())
        # asked for again and again: a page without script tells nobody that it has loaded
        self.wait_for(f"location.href === {path.as_uri()!r} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true; one that fails, as before the page is there, is
        not.
        """
        end = time.monotonic() + SECONDS
        while not self.evaluate(f"(() => {{ try {{ return {condition} }} catch {{ }} }})()"):
            assert time.monotonic() < end, (
                f"{condition}: {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.01)

    def type(self, key: str) -> None:
        """Press a key that types itself."""
        self.press(key, {"Enter": "\r"}.get(key, key))

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key; `text` is what it types."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            typed = {"text": text} if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code={" ": "Space"}.get(key, key),
                windowsVirtualKeyCode=codes.get(key, 0),
                **typed,
            )

    def set_view(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, full: bool = True) -> None:
        """A PNG of the page, or of the part in view."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are not those that the browser's get: 3 and 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser that ends with the block."""
    assert PROGRAM is not None
    from_test, to_test = _pipe(), _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the protocol is on the descriptors 3 and 4 of the browser
        command = f'exec "$@" 3<&{from_test[0]} 4>&{to_test[1]}'
        arguments = [PROGRAM, *OPTIONS.split(), f"--user-data-dir={profile}"]
        browser = subprocess.Popen(
            ["bash", "-c", command, "bash", *arguments],
            pass_fds=(from_test[0], to_test[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_test[0])
        os.close(to_test[1])
        try:
            yield Page(from_test[1], to_test[0])
        finally:
            os.close(from_test[1])
            browser.terminate()
            browser.wait(SECONDS)
            os.close(to_test[0])
