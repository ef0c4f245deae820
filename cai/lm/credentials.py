"""The secrets of an endpoint: the API key, and the proxy's password.

They are checked once, before the first call, are never quoted in a message, and are masked in
every text that a server sends.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from cai.errors import UsageError

API_KEY_VARIABLE = "CAI_API_KEY"
MASK = "***"
PART_OF_MESSAGE = 8
"""Characters of a part of a secret that is masked in messages."""
PART_OF_REPLY = 12
"""The same in replies, where a short part may be a word, or what keys of a vendor begin with."""


def read_api_key() -> str | None:
    """The key in the environment; None when there is none.

    Raises:
        UsageError: it holds a character that no header may hold. The message does not quote it.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    if not key:
        return None
    if not all("!" <= char <= "~" for char in key):
        raise UsageError(
            f"environment variable {API_KEY_VARIABLE}: the key holds a line break, a space, or "
            "another character that no key has: set it again without"
        )
    return key


def has_user_info(spec: str) -> bool:
    """Whether the address of a model names a user or a password, as in http://USER:SECRET@HOST.

    True in doubt: an address that cannot be read may hold a secret before any "@".
    """
    kind = spec.partition(":")[0].strip().lower()
    if kind in ("local", "fake", "vllm", "sglang"):
        return False
    _, separator, rest = spec.partition("://")
    if not separator or kind not in ("http", "https"):
        return "@" in spec  # a mistyped address
    if "@" in rest.partition("#")[0]:
        return True
    url = spec.strip().partition("#")[0]
    try:
        _ = urlsplit(url).port
    except ValueError:
        return "@" in rest
    # a password may hold "#" itself
    return "@" in rest and spec.count("#") > 1


def refuse_user_info(spec: str) -> None:
    """Refuse a model's address with a user name, a password or a query, without quoting it.

    Raises:
        UsageError: the address may hold a secret.
    """
    url = spec.partition("#")[0]
    is_address = url.strip().lower().startswith(("http:", "https:"))
    if has_user_info(spec) or (is_address and "?" in url):
        raise UsageError(
            "model: keys don't belong into the address; "
            f"put yours into the environment as {API_KEY_VARIABLE}"
        )


def parse_address(text: str) -> URL:
    """An address on the network.

    Raises:
        ValueError: it has no host, or one that cannot be looked up.
    """
    url = URL(text)
    host = url.host or ""
    ascii_host = host.encode("idna").decode()  # as the look-up does
    if not ascii_host or not all("!" <= char <= "~" for char in ascii_host):
        raise ValueError("no such host")
    return url


class Proxy(NamedTuple):
    """A proxy from the environment, and the texts of its address to be masked."""

    address: URL
    """Without the user's name and password."""
    authorization: str | None
    """The header that holds them."""
    secrets: tuple[str, ...]


def read_proxy(scheme: str, host: str) -> Proxy | None:
    """The proxy that the environment names for an address; None for the loopback.

    Raises:
        UsageError: it is not an address. The message does not quote it.
    """
    if _is_loopback(host) or proxy_bypass(host):
        return None
    address = getproxies().get(scheme)
    if not address:
        return None
    if "://" not in address:
        address = f"http://{address}"
    problem = UsageError(
        f"environment variable {scheme}_proxy: not a usable address of a proxy: "
        "write it as http://HOST:PORT, or list the model's host in no_proxy"
    )
    try:
        parts = urlsplit(address)
        _ = parts.port  # a number up to 65535
        url = parse_address(address)
    except Exception:  # any of them may quote the password
        raise problem from None
    if url.scheme not in ("http", "https"):
        raise problem
    user_info = parts.netloc.rpartition("@")[0]
    user, _, password = (unquote(part) for part in user_info.partition(":"))
    basic = b64encode(f"{user}:{password}".encode("utf-8", "replace")).decode()
    return Proxy(
        url.with_user(None),
        f"Basic {basic}" if user_info else None,
        _secret_texts(user_info, basic),
    )


def tls_context() -> ssl.SSLContext:
    """The certificates to trust: those of SSL_CERT_FILE or SSL_CERT_DIR, or the system's.

    Raises:
        UsageError: SSL_CERT_FILE or SSL_CERT_DIR names something else.
    """
    # only httpx2 finds the system's on every platform; it takes long to import, for https alone
    from httpx2 import create_ssl_context

    try:
        return create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(
            f"environment variable SSL_CERT_FILE or SSL_CERT_DIR: no certificates there ({reason})"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _secret_texts(user_info: str, header: str) -> tuple[str, ...]:
    """The password, as it is written and decoded, and as the proxy gets it: with the user."""
    password = user_info.partition(":")[2]
    texts = (password, unquote(password), header if password else "")
    return tuple(dict.fromkeys(text for text in texts if text))


def mask(text: str, secrets: Sequence[str], least: int = PART_OF_MESSAGE) -> str:
    """`text` with every secret replaced, and every part of one.

    Mask first, then cut: half a key is a secret too. A server may have cut its text itself.

    Args:
        least: characters of a part that is replaced.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for secret in sorted(secrets, key=len, reverse=True):
        for start, end in reversed(_parts(text, secret, least)):
            text = text[:start] + MASK + text[end:]
    return text


def _parts(text: str, secret: str, least: int) -> list[tuple[int, int]]:
    """(start, end) of the parts of `secret` in `text`, `least` characters or more, in order.

    Each of them holds one of the secret's consecutive blocks of half that length: to search for
    those is quick.
    """
    size = least // 2
    spans: list[tuple[int, int]] = []
    for offset in range(0, len(secret) - size + 1, size):
        block = secret[offset : offset + size]
        at = text.find(block)
        while at >= 0:
            before = _common(text[max(0, at - offset) : at][::-1], secret[:offset][::-1])
            after = _common(text[at : at + len(secret)], secret[offset:])
            if before + after >= least:
                spans.append((at - before, at + after))
            at = text.find(block, at + max(1, after))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _common(first: str, second: str) -> int:
    """Length of the common beginning."""
    limit = min(len(first), len(second))
    return next((i for i in range(limit) if first[i] != second[i]), limit)
