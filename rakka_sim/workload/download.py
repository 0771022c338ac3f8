"""Downloads one file of known size and checksum, whole or not at all; which files there are may not be known here."""

from __future__ import annotations

import hashlib
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, IncompleteRead, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError

from rakka_sim.errors import FetchFailed

SILENCE_S = 30.0
_BLOCK = 1 << 16


def sha256_of(path: Path) -> str:
    """The file's checksum in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    dataset: str,
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Callable[[int, int], None] | None = None,
    silence_s: float = SILENCE_S,
) -> None:
    """Put `url` at `target`, which appears only once size and checksum are right. Raises FetchFailed.

    `silence_s` is for how long the server may say nothing.
    """
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        part = Path(name)
        seen, digest = 0, hashlib.sha256()
        with open(handle, "wb") as file:
            for block in _blocks(dataset, url, silence_s):
                seen += len(block)
                if seen > size:
                    raise FetchFailed(dataset, url, "too_large", f"more than the {size} bytes it should have")
                digest.update(block)
                file.write(block)
                if progress is not None:
                    progress(seen, size)
        if seen < size:
            raise FetchFailed(dataset, url, "truncated", f"{seen} of {size} bytes")
        if digest.hexdigest() != sha256:
            raise FetchFailed(dataset, url, "checksum", f"sha256 is {digest.hexdigest()}, not {sha256}")
        part.replace(target)
    except OSError as error:
        raise FetchFailed(dataset, url, "cache", str(error)) from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _blocks(dataset: str, url: str, silence_s: float) -> Iterator[bytes]:
    try:
        with _opener().open(urllib.request.Request(url), timeout=silence_s) as response:
            while block := response.read(_BLOCK):
                yield block
    except HTTPError as error:
        error.close()
        raise FetchFailed(dataset, url, "status", f"{error.code} {error.reason}") from None
    except IncompleteRead as error:
        raise FetchFailed(dataset, url, "truncated", str(error)) from None
    except (InvalidURL, ValueError) as error:
        raise FetchFailed(dataset, url, "bad_url", str(error)) from None
    except (OSError, HTTPException) as error:
        reason = "bad_url" if isinstance(error, URLError) and "unknown url type" in str(error.reason) else "unreachable"
        raise FetchFailed(dataset, url, reason, f"{type(error).__name__}: {error}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Follows redirects and proxies, and knows nothing but http and https: no file, ftp or data URL."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
