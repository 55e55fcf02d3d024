"""Fetching against a local server: resume, checksums, hostile members, no network."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vspcn_lib.archives import Archive, ArchiveError, fetch, verify


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tar(name: str, link: str | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        archive.addfile(info, None if link else io.BytesIO(b""))
    return out.getvalue()


@pytest.fixture
def server():
    files: dict[str, bytes] = {}
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data, span = files[self.path.lstrip("/")], self.headers.get("Range")
            asked.append(span)
            start = int(span.split("=")[1].rstrip("-")) if span else 0
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", files, asked
    http.shutdown()


def test_fetch_resumes_checks_and_unpacks(server, tmp_path, capsys):
    url, files, asked = server
    data = files["set.zip"] = _zip({"set/a.txt": b"hello" * 1000})
    archive = Archive(f"{url}/set.zip", "set", len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
    (tmp_path / "set.zip.part").write_bytes(data[:100])
    fetch("x", tmp_path, (archive,))
    assert asked == ["bytes=100-"] and (tmp_path / "set" / "a.txt").read_bytes() == b"hello" * 1000
    fetch("x", tmp_path, (archive,))
    assert len(asked) == 1 and "already" in capsys.readouterr().out
    assert not list(tmp_path.glob("unpacking-*"))


def test_wrong_checksum_moves_the_file_aside(server, tmp_path):
    url, files, _ = server
    files["set.zip"] = _zip({"set/a": b"1"})
    with pytest.raises(ArchiveError, match=r"expected .* md5 00"):
        fetch("x", tmp_path, (Archive(f"{url}/set.zip", "set", None, "00" * 16),))
    assert not (tmp_path / "set").exists() and (tmp_path / "set.zip.bad").exists()


@pytest.mark.parametrize("data", [_zip({"../evil": b"x"}), _zip({"/tmp/evil": b"x"}), _tar("../evil"),
                                  _tar("set/link", "../../../etc/passwd")])
def test_members_outside_their_folder_are_refused(server, tmp_path, data):
    url, files, _ = server
    files["set.any"] = data
    root = tmp_path / "root"
    with pytest.raises(ArchiveError, match=r"outside its folder|is a link"):
        fetch("x", root, (Archive(f"{url}/set.any", "set"),))
    assert not (tmp_path / "evil").exists() and not (root / "set").exists()


def test_no_network_and_unknown_names_are_clear(tmp_path):
    with pytest.raises(ArchiveError, match=r"from 127.0.0.1:9 .*by hand"):
        fetch("x", tmp_path, (Archive("http://127.0.0.1:9/set.zip", "set"),))
    with pytest.raises(ArchiveError, match="choose one of cub"):
        fetch("imagenet", tmp_path)


def test_verify_says_what_is_missing(tmp_path):
    text = verify("cub", tmp_path)
    assert "MISSING  CUB_200_2011/images" in text and "not ready" in text and len(text.splitlines()) < 24
