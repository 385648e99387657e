from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.request import BaseHandler, HTTPHandler, OpenerDirector, Request
from urllib.response import addinfourl

import pytest

from saccade.errors import ModelFileError, ResourceError
from saccade.machine import download
from saccade.machine.download import fetch, https_only
from saccade.machine.paths import cache_folder

CONTENT = bytes(range(256)) * 4000  # 1 MB: several pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT on localhost. /cut-N/... breaks off after N bytes; /moved/... redirects; /whole/... ignores
    ranges; /gone/... is 404; /endless/... states no length and never ends. `asked` are the paths and ranges."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # who is refused hangs up early
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append((request.path, asked))
        kind = request.path.split("/")[1]
        if kind == "gone":
            request.send_error(404)
            return
        if kind == "moved":
            request.send_response(302)
            request.send_header("Location", f"{self.url}/whole/file.pth")
            request.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and kind != "whole" else 0
        if start >= len(CONTENT):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if kind != "endless":
            request.send_header("Content-Length", str(len(CONTENT) - start))
        request.end_headers()
        while kind == "endless":
            request.wfile.write(CONTENT)
        end = start + int(kind.removeprefix("cut-")) if kind.startswith("cut-") else len(CONTENT)
        request.wfile.write(CONTENT[start:end])


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(_server: Server) -> Server:
    _server.asked.clear()
    return _server


def plain() -> OpenerDirector:
    """Opens http as well: the server has no certificate."""
    opener = https_only()
    opener.add_handler(HTTPHandler())
    return opener


def get(server: Server, kind: str, folder: Path, sha256: str = SHA256[:8]) -> Path:
    return fetch(f"{server.url}/{kind}/file.pth", sha256, folder, opener=plain())


@pytest.mark.parametrize("kind", ["endless", "file"])
def test_what_is_larger_than_the_file_can_be_is_not_taken(server: Server, kind: str, tmp_path: Path) -> None:
    largest = {"endless": 2**20, "file": len(CONTENT) - 1}[kind]
    with pytest.raises(ResourceError, match="more than 1 MiB come"):
        fetch(f"{server.url}/{kind}/file.pth", SHA256, tmp_path, opener=plain(), largest=largest)
    assert not list(tmp_path.glob("*.part"))
    fetch(f"{server.url}/file/file.pth", SHA256, tmp_path, opener=plain(), largest=len(CONTENT))


@pytest.mark.parametrize("kind", ["file", "moved", "whole"])
def test_a_file_comes_once(server: Server, kind: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    url, folder = f"{server.url}/{kind}/file.pth", tmp_path / "new" / "weights"
    path = fetch(url, SHA256, folder, lambda there, total: seen.append((there, total)), plain())
    assert path == folder / "file.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [there for there, _ in seen] == sorted({there for there, _ in seen})
    asked = len(server.asked)
    assert fetch(url, SHA256, folder, opener=plain()) == path
    assert len(server.asked) == asked
    assert [file.name for file in folder.iterdir() if not file.name.endswith(".lock")] == ["file.pth"]


def test_a_connection_that_breaks_off_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    assert get(server, "cut-300000", tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_what_came_is_kept_for_the_next_run(server: Server, tmp_path: Path) -> None:
    message = r"broke off again and again; 0.5 MB are there and will be gone on with"
    with pytest.raises(ResourceError, match=message):
        get(server, "cut-100000", tmp_path)
    assert len(server.asked) == download.ATTEMPTS
    assert not (tmp_path / "file.pth").exists()
    assert get(server, "file", tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=500000-"


def test_a_server_that_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").write_bytes(b"of yesterday")
    assert get(server, "whole", tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").write_bytes(CONTENT)
    assert get(server, "file", tmp_path).read_bytes() == CONTENT


def test_nothing_comes(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="broke off"):
        get(server, "cut-0", tmp_path)
    assert len(server.asked) == 1


def test_another_content_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"SHA-256 {SHA256}, expected 12345678\. It is removed"):
        get(server, "file", tmp_path, "12345678")
    assert not list(tmp_path.glob("file*"))


def test_a_stale_part_is_removed_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(ModelFileError, match="It is removed"):
        get(server, "file", tmp_path)
    assert get(server, "file", tmp_path).read_bytes() == CONTENT


def test_a_file_of_the_cache_is_checked_and_left(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "file.pth"
    own.write_bytes(b"put here by hand")
    with pytest.raises(ModelFileError, match=rf"{re.escape(str(own))}: damaged or another file.*Remove it"):
        get(server, "file", tmp_path)
    assert own.read_bytes() == b"put here by hand"
    assert not server.asked


def test_not_found(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1 answers 404 Not Found to http.*--weights FILE"):
        get(server, "gone", tmp_path)


def test_offline(tmp_path: Path) -> None:
    with socket.socket() as free:  # nobody listens at a port that was just given back
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = rf"cannot reach 127\.0\.0\.1 \(.*\)\. Download .* put it into {re.escape(str(tmp_path))}"
    with pytest.raises(ResourceError, match=message):
        fetch(f"http://127.0.0.1:{port}/file.pth", SHA256, tmp_path, opener=plain())


def test_plain_http_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no https address"):
        fetch(f"{server.url}/file/file.pth", SHA256, tmp_path)
    with pytest.raises(ResourceError, match="no https address"):
        fetch(f"file://{tmp_path}/file.pth", SHA256, tmp_path)
    assert not server.asked


class _Redirects(BaseHandler):
    """Answers every https request with a redirection to plain http."""

    handler_order = 1

    def __init__(self, target: str) -> None:
        self.target = target

    def https_open(self, request: Request) -> addinfourl:
        headers = Message()
        headers["Location"] = self.target
        answer = addinfourl(io.BytesIO(), headers, request.full_url, 302)
        answer.msg = "Found"  # type: ignore[attr-defined]
        return answer


def test_a_redirection_to_plain_http_is_refused(server: Server, tmp_path: Path) -> None:
    opener = https_only()
    opener.add_handler(_Redirects(f"{server.url}/file/file.pth"))
    with pytest.raises(ResourceError, match="no https address"):
        fetch("https://example.org/file.pth", SHA256, tmp_path, opener=opener)
    assert not server.asked


def test_no_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(500_000))
    with pytest.raises(ResourceError, match=r"1 MB are needed and 0 MB free.*SACCADE_CACHE"):
        get(server, "file", tmp_path)


def test_a_cache_that_cannot_be_written_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").mkdir()
    with pytest.raises(ResourceError, match="SACCADE_CACHE"):
        get(server, "file", tmp_path)


def test_several_processes_get_it_once(server: Server, tmp_path: Path) -> None:
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if get(server, "file", tmp_path).read_bytes() == CONTENT else 2
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert len(server.asked) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_CACHE", "/own")
    assert cache_folder("weights") == Path("/own/weights")
    monkeypatch.delenv("SACCADE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("weights") == Path("/xdg/saccade/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/someone")
    assert cache_folder("weights") == Path("/someone/.cache/saccade/weights")
