"""Fetching against a local server: resume, checksums, hostile members, no network."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from vspcn_lib.data.archives import Archive, ArchiveError, fetch
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.data.verify import verify


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


def _cub() -> tuple[bytes, bytes, bytes]:
    """The split file of a CUB of 4 classes with 3 images each, the zip of the splits, and the zip of the dataset."""
    files = [f"00{c}.Bird_{c}/{i}.jpg" for c in range(1, 5) for i in range(3)]
    cells = np.array([[np.array([f"/BS/work/CUB_200_2011/images/{f}"])] for f in files], dtype=object)
    names = np.array([[np.array([f"00{c}.Bird_{c}"])] for c in range(1, 5)], dtype=object)
    parts = {"trainval": [1, 2, 4, 5, 7, 8], "test_seen": [3, 6, 9], "test_unseen": [10, 11, 12], "train": [1, 2, 4, 5],
             "val": [7, 8]}
    split, listed = io.BytesIO(), io.BytesIO()
    savemat(split, {"att": np.random.default_rng(0).uniform(0.1, 1, (2, 4)), "allclasses_names": names,
                    **{f"{k}_loc": np.array(v)[:, None] for k, v in parts.items()}})
    savemat(listed, {"image_files": cells, "labels": np.repeat(np.arange(1, 5), 3)[:, None]})
    splits = _zip({"xlsa17/data/CUB/att_splits.mat": split.getvalue(), "xlsa17/data/CUB/res101.mat": listed.getvalue()})
    data = _zip({"CUB_200_2011/attributes/attributes.txt": b"1 has_size::small\n2 has_wing_color::red\n",
                 **{f"CUB_200_2011/images/{f}": b"picture of " + f.encode() for f in files}})
    return split.getvalue(), splits, data


def test_a_partial_dataset_is_completed(server, tmp_path, capsys):
    url, files, asked = server
    split, files["xlsa17.zip"], files["CUB.zip"] = _cub()
    held = (("xlsa17/data/CUB/att_splits.mat", hashlib.sha256(split).hexdigest()),)
    archives = (Archive(f"{url}/xlsa17.zip", "xlsa17", holds=held), Archive(f"{url}/CUB.zip", "CUB_200_2011"))
    fetch("cub", tmp_path, archives)
    assert len(asked) == 2 and len(load_benchmark("cub", tmp_path).image_paths) == 12
    (tmp_path / "CUB_200_2011" / "mine.txt").write_text("keep")
    fetch("cub", tmp_path, archives)
    assert capsys.readouterr().out.count("is already in") == 2
    for archive in tmp_path.glob("*.zip"):
        archive.unlink()  # to save space
    photos = tmp_path / "CUB_200_2011" / "images"
    shutil.rmtree(photos / "002.Bird_2")
    (photos / "001.Bird_1" / "0.jpg").write_bytes(b"pic")  # cut off
    fetch("cub", tmp_path, archives)
    assert len(asked) == 3 and "xlsa17 is already in" in capsys.readouterr().out  # the splits were whole
    assert len(load_benchmark("cub", tmp_path).image_paths) == 12
    assert (photos / "001.Bird_1" / "0.jpg").read_bytes() == b"picture of 001.Bird_1/0.jpg"
    assert (tmp_path / "CUB_200_2011" / "mine.txt").read_text() == "keep"
    for name, spoil in (("res101.mat", b""), ("att_splits.mat", b"x" * len(split))):  # lost, and altered at full length
        file = tmp_path / "xlsa17" / "data" / "CUB" / name
        file.write_bytes(spoil) if spoil else file.unlink()
        fetch("cub", tmp_path, archives)
        assert len(load_benchmark("cub", tmp_path).image_paths) == 12
    files["CUB.zip"] = _zip({"CUB_200_2011/images/001.Bird_1/0.jpg": b"picture of 001.Bird_1/0.jpg"})
    (tmp_path / "CUB.zip").unlink()
    (photos / "003.Bird_3" / "1.jpg").unlink()
    with pytest.raises(ArchiveError, match=r"1 of 12 images are missing .*move xlsa17, CUB_200_2011 out of"):
        fetch("cub", tmp_path, archives)


def test_labels_that_do_not_fit_the_image_list_are_named(tmp_path):
    _, splits, data = _cub()
    for content in (splits, data):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                archive.extract(member, tmp_path)
    file = tmp_path / "xlsa17" / "data" / "CUB" / "res101.mat"
    savemat(file, {"image_files": loadmat(file)["image_files"], "labels": np.ones((11, 1))})
    with pytest.raises(BenchmarkError, match=r"res101.mat lists 12 images and 11 labels"):
        load_benchmark("cub", tmp_path)


def test_files_that_were_there_before_are_checked_too(server, tmp_path):
    url, files, asked = server
    data = files["set.zip"] = _zip({"set/a.txt": b"hello" * 1000})
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    archive = Archive(f"{url}/set.zip", "set", len(data), md5)
    (tmp_path / "set.zip").write_bytes(data[:-9] + b"different")
    with pytest.raises(ArchiveError, match=r"moved to set.zip.bad"):
        fetch("x", tmp_path, (archive,))
    assert not asked and not (tmp_path / "set").exists()
    (tmp_path / "set.zip").write_bytes(data[:50])  # a copy that was cut off: continued
    fetch("x", tmp_path, (archive,))
    assert asked == ["bytes=50-"] and (tmp_path / "set" / "a.txt").exists()


def test_no_network_and_unknown_names_are_clear(tmp_path):
    nowhere = (Archive("http://127.0.0.1:9/set.zip", "set"),)
    with pytest.raises(ArchiveError, match=r"from 127.0.0.1:9 .*by hand") as caught:
        fetch("x", tmp_path, nowhere)
    assert "is kept" not in str(caught.value)
    (tmp_path / "set.zip.part").write_bytes(b"begun")
    with pytest.raises(ArchiveError, match=r"set\.zip\.part is kept"):
        fetch("x", tmp_path, nowhere)
    with pytest.raises(ArchiveError, match=r"nothing to fetch for 'cub100': .*\.\./shared/data/cub100"):
        fetch("cub100", tmp_path)
    with pytest.raises(ArchiveError, match="choose one of cub"):
        fetch("imagenet", tmp_path)


def test_verify_says_what_is_missing(tmp_path):
    text, ready = verify("cub", tmp_path)
    assert not ready and "MISSING  CUB_200_2011/images" in text and "not ready" in text and len(text.splitlines()) < 24
