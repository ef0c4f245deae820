"""The body of an endpoint's response, with a bound on its size before and after decoding."""

from __future__ import annotations

import zlib

import aiohttp

from cai.errors import TransientError

MAX_ANSWER_BYTES = 16 << 20
"""An answer of 32,000 tokens with 20 alternatives each takes less."""


class MalformedAnswerError(TransientError):
    """An answer that is not in the format. It is asked for again, but only a few times."""

    usage: tuple[int, int] | None = None
    """What the server counted, where it could be read."""


async def read_body(response: aiohttp.ClientResponse, url: str) -> bytes:
    """The decoded body.

    Raises:
        MalformedAnswerError: it is larger than `MAX_ANSWER_BYTES`, or cannot be decoded.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise _too_large(url)
    encodings = response.headers.getall("Content-Encoding", ())
    return _decode(b"".join(chunks), ", ".join(encodings), url)


def _decode(data: bytes, encoding: str, url: str) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise MalformedAnswerError(
            f"{url}: the answer has a Content-Encoding that was not requested"
        )
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # gzip or zlib; bare deflate
        decoder = zlib.decompressobj(window_bits)
        try:
            decoded = decoder.decompress(data, MAX_ANSWER_BYTES + 1)
        except zlib.error:
            continue
        if len(decoded) > MAX_ANSWER_BYTES:
            raise _too_large(url)
        if decoder.eof:
            return decoded
    raise MalformedAnswerError(f"{url}: the answer is not the {encoding} that it claims to be")


def _too_large(url: str) -> MalformedAnswerError:
    return MalformedAnswerError(f"{url}: the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
