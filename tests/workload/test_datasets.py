"""Datasets: found where they lie, fetched whole or not at all, from a real server on the loopback."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rakka_sim.config.workload import Trace
from rakka_sim.errors import DatasetMissing, FetchFailed, UnknownName
from rakka_sim.workload import datasets
from rakka_sim.workload.download import download
from rakka_sim.workload.readers.trace import TraceFile

BODY = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + b"2023-11-16 18:15:46.6805900,374,44\r\n" * 5_000
NAME = "azure-2023-conv"


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path: well, or in one of the ways in which servers fail."""

    body = BODY

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        getattr(self, "answer_" + self.path.split("/")[1], self.answer_good)()

    def head(self, length: int | None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer_good(self) -> None:
        self.head(len(self.body))
        self.wfile.write(self.body)

    def answer_changed(self) -> None:
        self.head(len(self.body))
        self.wfile.write(self.body[:-1] + b"!")

    def answer_short(self) -> None:
        self.head(len(self.body) - 10)
        self.wfile.write(self.body[:-10])

    def answer_cut(self) -> None:
        self.head(len(self.body))
        self.wfile.write(self.body[:100_000])

    def answer_cut_chunk(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.head(None, **{"Transfer-Encoding": "chunked"})
        self.wfile.write(b"ffff\r\n" + self.body[:5_000])
        self.close_connection = True

    def answer_endless(self) -> None:
        self.head(None)
        try:
            while True:
                self.wfile.write(self.body)
        except OSError:
            pass  # the client has seen enough

    def answer_missing(self) -> None:
        self.head(0, status=404)

    def answer_moved(self) -> None:
        self.head(0, status=302, Location="/good")

    def answer_to_a_file(self) -> None:
        self.head(0, status=302, Location="file:///etc/hostname")

    def answer_to_ftp(self) -> None:
        self.head(0, status=302, Location="ftp://127.0.0.1/x")

    def answer_nonsense(self) -> None:
        self.wfile.write(b"this is not HTTP\r\n\r\n")

    def answer_silence(self) -> None:
        self.server.release.wait(30)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.release = threading.Event()
        self.base = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, with a catalogue whose first dataset is the server's body."""
    for name in ("RAKKA_SIM_DATA", "RAKKA_SIM_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = replace(datasets.lookup(NAME), bytes=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    monkeypatch.setattr(datasets, "CATALOGUE", (small, *datasets.CATALOGUE[1:]))
    return tmp_path / "rakka_sim"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_fetched_once_then_found(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAKKA_SIM_MIRROR", server.base + "/")
    heard: list[tuple[int, int]] = []
    path = datasets.fetch(NAME, progress=lambda *seen: heard.append(seen))
    assert path == cache / "azure_llm_2023_conv.csv" == datasets.find(NAME)
    assert path.read_bytes() == BODY
    assert left_in(cache) == [path.name]
    assert server.asked == ["/Azure/AzurePublicDataset/refs/heads/master/data/AzureLLMInferenceTrace_conv.csv"]
    assert heard[-1] == (len(BODY), len(BODY))
    assert heard == sorted(heard)
    assert datasets.fetch(NAME) == path
    assert len(server.asked) == 1
    path.write_bytes(b"spoilt")
    assert datasets.fetch(NAME).read_bytes() == BODY
    assert len(list(TraceFile(Trace(dataset=NAME), cache).rows(True))) == 5_000


def test_what_is_too_large_is_not_read_to_its_end(server: Server, cache: Path) -> None:
    heard: list[int] = []
    with pytest.raises(FetchFailed):
        datasets.fetch(NAME, url=f"{server.base}/endless", progress=lambda done, size: heard.append(done))
    assert max(heard) <= len(BODY)


def test_redirects_are_followed_and_the_cache_can_be_anywhere(server: Server, cache: Path, tmp_path: Path) -> None:
    path = datasets.fetch(NAME, url=f"{server.base}/moved", cache=tmp_path / "a" / "b")
    assert path.read_bytes() == BODY
    assert server.asked == ["/moved", "/good"]
    assert not cache.exists()


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("changed", "checksum", hashlib.sha256(BODY[:-1] + b"!").hexdigest()),
        ("short", "truncated", f"{len(BODY) - 10} of {len(BODY)} bytes"),
        ("cut", "truncated", "100000"),
        ("cut_chunk", "truncated", "IncompleteRead"),
        ("endless", "too_large", str(len(BODY))),
        ("missing", "status", "404"),
        ("to_a_file", "status", "302"),
        ("to_ftp", "bad_url", "ftp"),
        ("nonsense", "unreachable", "BadStatusLine"),
    ],
)
def test_a_failure_is_typed_and_leaves_nothing(
    server: Server, cache: Path, path: str, reason: str, detail: str
) -> None:
    with pytest.raises(FetchFailed) as caught:
        datasets.fetch(NAME, url=f"{server.base}/{path}")
    error = caught.value
    assert (error.dataset, error.url, error.reason) == (NAME, f"{server.base}/{path}", reason)
    assert detail in error.detail
    assert left_in(cache) == []


@pytest.mark.parametrize("path", ["missing", "changed"])
def test_a_failure_spares_what_was_there(server: Server, cache: Path, path: str) -> None:
    cache.mkdir()
    old = cache / "azure_llm_2023_conv.csv"
    old.write_bytes(b"mine")
    with pytest.raises(FetchFailed):
        datasets.fetch(NAME, url=f"{server.base}/{path}")
    assert old.read_bytes() == b"mine"
    assert left_in(cache) == [old.name]


def test_an_interrupt_leaves_nothing(server: Server, cache: Path) -> None:
    seen: list[list[str]] = []

    def interrupt(done: int, size: int) -> None:
        seen.append(left_in(cache))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.fetch(NAME, url=server.base, progress=interrupt)
    assert len(seen[0]) == 1  # there was something to clean up
    assert seen[0][0].endswith(".part")
    assert left_in(cache) == []


def test_a_server_that_says_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed) as caught:
        download(NAME, f"{server.base}/silence", tmp_path / "x", size=9, sha256="", silence_s=0.2)
    assert (caught.value.reason, left_in(tmp_path)) == ("unreachable", [])


def test_nobody_listens(cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can be there either
        with pytest.raises(FetchFailed) as caught:
            datasets.fetch(NAME, url=f"http://127.0.0.1:{taken.getsockname()[1]}/x")
    assert caught.value.reason == "unreachable"


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/x", "http://[", "http://h:x/"]
)
def test_only_http_is_spoken(cache: Path, url: str) -> None:
    with pytest.raises(FetchFailed) as caught:
        datasets.fetch(NAME, url=url)
    assert (caught.value.reason, left_in(cache)) == ("bad_url", [])


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchFailed) as caught:
        datasets.fetch(NAME, url=server.base, cache=tmp_path / "file" / "under")
    assert caught.value.reason == "cache"


def test_where_a_dataset_is_looked_for(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setenv("RAKKA_SIM_DATA", f"{one}{os.pathsep}{two}")
    with pytest.raises(DatasetMissing) as caught:
        datasets.find(NAME, [tmp_path / "mine"])
    searched = [tmp_path / "mine", one, one / "traces", two, two / "traces", cache]
    assert list(caught.value.searched) == [str(folder) for folder in searched]
    assert f"rakka-sim fetch {NAME}" in str(caught.value)
    names = ["AzureLLMInferenceTrace_conv.csv", "azure_llm_2023_conv.csv"]
    for number, folder in enumerate(reversed(searched)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[number % 2]).write_text("x")
        assert datasets.find(NAME, [tmp_path / "mine"]) == folder / names[number % 2]


def test_the_cache_is_where_the_specification_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert datasets.cache_dir() == tmp_path / ".cache" / "rakka_sim"


def test_unknown_datasets_list_the_known(cache: Path) -> None:
    asked: list[Callable[[str], object]] = [datasets.lookup, datasets.find, datasets.fetch]
    for ask in asked:
        with pytest.raises(UnknownName) as caught:
            ask("azure")
        assert "mooncake-synthetic" in caught.value.allowed


def test_the_catalogue_is_true(shared_data: Path) -> None:
    for dataset in datasets.CATALOGUE:
        body = (shared_data / "traces" / dataset.file).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (dataset.bytes, dataset.sha256)
        trace = TraceFile(Trace(dataset=dataset.name, data_dirs=("traces",)), shared_data)
        assert trace.check(True, None) == dataset.rows
        assert dataset.licence
        assert dataset.citation
        assert dataset.url.startswith("https://")
