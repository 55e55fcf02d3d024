"""The model hub and gensim's downloader, played by a server on this machine: the real client code against it."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gensim.downloader
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save
from timm.models.vision_transformer import checkpoint_filter_fn

from vspcn_lib.encoders import words
from vspcn_lib.encoders.phrases import SemanticsError

ROOT = Path(__file__).parents[2]
NAME = "glove-wiki-gigaword-300"
LOAD = """
import sys, json
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.encoders.weights import BackboneError
try:
    found = load_backbone(sys.argv[1], 32)
except BackboneError as error:
    print(json.dumps({"refused": str(error)}))
else:
    print(json.dumps({"source": found.source, "sum": sum(p.double().sum().item() for p in found.vit.parameters())}))
"""


@pytest.fixture
def server():
    """Its address, and the files that it serves by path; a path that is not there is 404."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            data = files.get(self.path.partition("?")[0].lstrip("/"))
            self.send_response(404 if data is None else 200)
            data = data or b""
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not data:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(data if body else b"")

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", files
    http.shutdown()


def _load(name: str, url: str, home: Path) -> dict:
    env = {**{k: v for k, v in os.environ.items() if "proxy" not in k.lower()}, "HF_ENDPOINT": url,
           "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", LOAD, name], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bare_name_brings_the_hubs_weights_and_a_missing_one_names_the_file_option(server, tmp_path):
    url, files = server
    torch.manual_seed(5)
    vit = timm.create_model("test_vit", img_size=160)  # the size of the published weights: positions are resampled
    files["timm/test_vit.r160_in1k/resolve/main/model.safetensors"] = save(vit.state_dict())
    found = _load("test_vit.r160_in1k", url, tmp_path / "home")
    assert found["source"]["source"] == "model hub" and found["source"]["tag"] == "test_vit.r160_in1k"
    smaller = timm.create_model("test_vit", img_size=32, num_classes=0)
    smaller.load_state_dict(checkpoint_filter_fn(vit.state_dict(), smaller), strict=False)
    assert found["sum"] == pytest.approx(sum(p.double().sum().item() for p in smaller.parameters()), rel=1e-6)
    refused = _load("vit_tiny_patch16_224", url, tmp_path / "home")["refused"]
    assert "could not get weights of 'vit_tiny_patch16_224' from the model hub" in refused
    assert "--model.backbone vit_tiny_patch16_224@FILE" in refused


def test_word_vectors_come_from_the_downloader_are_checked_and_its_program_never_runs(server, tmp_path, monkeypatch):
    url, files = server
    vectors = np.random.default_rng(0).normal(size=(3, 300)).round(4)
    text = "3 300\n" + "".join(f"{w} {' '.join(map(str, v))}\n" for w, v in zip(("wing", "blue", "beak"), vectors,
                                                                              strict=True))
    data = gzip.compress(text.encode())
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    listed = {"checksum": md5, "parts": 1, "file_name": f"{NAME}.gz"}
    files["list.json"] = json.dumps({"corpora": {}, "models": {NAME: listed}}).encode()
    files[f"{NAME}/{NAME}.gz"] = data
    files[f"{NAME}/__init__.py"] = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    info = gensim.downloader._load_info
    monkeypatch.setattr(gensim.downloader, "_load_info", lambda: info(f"{url}/list.json"))
    monkeypatch.setattr(gensim.downloader, "DOWNLOAD_BASE_URL", url)
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim"))
    with pytest.raises(SemanticsError, match="checksum mismatch"):  # not the file that the project knows
        words.load_vectors("glove-300")
    monkeypatch.setitem(words.HUB, "glove-300", (NAME, md5))
    found = words.load_vectors("glove-300")
    np.testing.assert_allclose(found["blue"], vectors[1], atol=1e-6)
    assert not (tmp_path / "ran").exists()
    files.clear()
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "empty"))
    with pytest.raises(SemanticsError, match="gensim could not download"):
        words.load_vectors("glove-300")
