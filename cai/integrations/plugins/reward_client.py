"""The client of `cai serve-reward` that the training plug-ins share. Standard library only.

`plugin_source` puts this text into each plug-in that it writes: engines load a plug-in by its path,
often on machines without cai.
"""

import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any

TIMEOUT_S = 180
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses between tries of a request that failed for a passing reason."""
RETRY_FOR_S = 300
"""No try begins later than this after the first."""
PASSING = (408, 429, 502, 503, 504)
RECENT = 512
"""Rewards, and failures, that are remembered."""
MIN_ROWS = 20
"""A share of failures is looked at from this number of rows on."""
MAX_FAILURES = float(os.environ.get("CAI_REWARD_MAX_FAILURES") or 0.2)
"""The share of unknown rewards among recent ones at which training should stop."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token goes to no other address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


class RequestFailure(Exception):
    """A request without an answer, with a reason that quotes neither token nor text."""


class PassingFailure(RequestFailure):
    """One that may pass by itself."""


class RewardMemory:
    """Recent rewards and failures of this process; its methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[str, deque[float]] = {}
        self.failures: deque[bool] = deque(maxlen=RECENT)
        self.reasons: set[str] = set()
        self.warned = False

    def fill(self, name: str, values: list[Any]) -> list[float]:
        """The values, with the mean of the known ones in place of None.

        That is the mean of this batch; where it has none, of the recent ones; where there are none
        yet, 0.
        """
        batch = [float(value) for value in values if value is not None]
        with self.lock:
            recent = self.known.setdefault(name, deque(maxlen=RECENT))
            recent.extend(batch)
            basis = batch or list(recent)
        mean = sum(basis) / len(basis) if basis else 0.0
        return [mean if value is None else float(value) for value in values]

    def record(self, reasons: list[Any]) -> str | None:
        """Count each row's failure (a reason) or success (None), and print each new reason once.

        Returns:
            What to say when the share of failures is too high, or None.
        """
        with self.lock:
            self.failures.extend(reason is not None for reason in reasons)
            failed, count = sum(self.failures), len(self.failures)
            for reason in {str(reason) for reason in reasons if reason is not None}:
                if reason not in self.reasons and len(self.reasons) < 20:
                    self.reasons.add(reason)
                    print(f"cai: a reward is unknown: {reason}", file=sys.stderr, flush=True)
        if count < MIN_ROWS or failed <= MAX_FAILURES * count:
            return None
        last = next((str(reason) for reason in reversed(reasons) if reason is not None), "")
        share = f"{failed} of the last {count} rewards are unknown (limit {MAX_FAILURES:.0%})"
        return f"cai: {share}: {last}"


MEMORY = RewardMemory()


def post(path: str, body: dict[str, Any], server_url: Any = None, token: Any = None) -> Any:
    """The server's answer; passing failures are tried again.

    Raises:
        RequestFailure: no answer.
    """
    url = str(server_url or os.environ.get("CAI_REWARD_URL") or "http://127.0.0.1:8900")
    secret = str(token or os.environ.get("CAI_REWARD_TOKEN") or "")
    if not (secret.isascii() and secret.isprintable() and secret == secret.strip()):
        raise RequestFailure("CAI_REWARD_TOKEN has a line break, a space at an end, or no ASCII")
    headers = {"content-type": "application/json", "authorization": "Bearer " + secret}
    data = json.dumps(body).encode()
    give_up = time.monotonic() + RETRY_FOR_S
    for wait in WAITS_S:
        try:
            return _post_once(url.rstrip("/") + path, data, headers)
        except PassingFailure:
            if time.monotonic() + wait > give_up:
                raise
            time.sleep(wait)
    return _post_once(url.rstrip("/") + path, data, headers)


def _post_once(url: str, data: bytes, headers: dict[str, str]) -> Any:
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310  # the user's address
        with _OPENER.open(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        failure = PassingFailure if error.code in PASSING else RequestFailure
        raise failure(_status_reason(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise PassingFailure(f"no answer from the server: {type(error).__name__}") from None
    except Exception as error:
        raise RequestFailure(f"no request, or no JSON answer: {type(error).__name__}") from None


def _status_reason(error: urllib.error.HTTPError) -> str:
    """The status, and the server's own line on it where there is one."""
    try:
        with error:
            line = str(json.loads(error.read(10_000))["error"])
    except Exception:
        line = ""
    return f"status {error.code} {line}".strip()[:300]
