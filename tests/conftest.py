"""A tiny world for tests: a 4-block, 32-wide ViT and a folder benchmark of 5 seen and 3 unseen classes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from world import ATTRIBUTES, make_folder, make_vit

from vspcn_lib.encoders.backbone import FrozenViT

__all__ = ["ATTRIBUTES", "SHARED", "needs_shared"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data folder ../shared/data is absent")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_vit() -> FrozenViT:
    return make_vit()


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """Folder benchmark: 5 seen classes (2 of them validation) and 3 unseen, 6 images each, one hue a class."""
    return make_folder(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests never write to the user's cache, except those that ask for the packaged weights."""
    if "real_cache" not in request.keywords:
        monkeypatch.setenv("VSPCN_CACHE", str(tmp_path / "cache"))
