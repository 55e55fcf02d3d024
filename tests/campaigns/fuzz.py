"""Coverage-guided fuzzing of our own parsers (needs `pip install atheris`).

`PYTHONPATH=tests python tests/campaigns/fuzz.py PARSER --seconds 60`

A parser may accept its input or refuse it with an error of the library's own; anything else is a finding. The same
functions run under Hypothesis in test_trust.py, where nothing needs to be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(include=["vspcn_lib", "world", "gensim.models", "PIL"])
else:
    instrumented = contextlib.nullcontext()
with instrumented:
    from world import make_folder

    from vspcn_lib.config import Config, as_dict, read_config, update
    from vspcn_lib.data.benchmarks import load_benchmark
    from vspcn_lib.data.images import decode
    from vspcn_lib.encoders.phrases import attribute_phrase
    from vspcn_lib.encoders.words import load_vectors
    from vspcn_lib.panels.controls import Slider
    from vspcn_lib.studies.sweep import parse_axis
    from vspcn_lib.system.files import unchecked, whole_rows
    from vspcn_lib.system.unpack import unpack

ROOT = Path(tempfile.mkdtemp(prefix="fuzz-"))


def _file(data: bytes, name: str) -> Path:
    path = ROOT / name
    path.write_bytes(data)
    return path


def _folder_file(data: bytes, name: str) -> None:
    folder = ROOT / "folder"
    if not folder.exists():
        make_folder(folder)
    before = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data)
        load_benchmark(folder)
    finally:
        (folder / name).write_bytes(before)


def config_tree(data: bytes) -> None:
    """Lines `group.field value`: what is accepted must survive the way out and back in."""
    tree: dict[str, dict[str, object]] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(" ")
        group, _, key = name.partition(".")
        with contextlib.suppress(ValueError, RecursionError):
            tree.setdefault(group, {})[key] = json.loads(value)
    config = update(Config(), tree)
    assert as_dict(read_config(json.loads(json.dumps(as_dict(config))))) == as_dict(config)


def archive(data: bytes) -> None:
    """Nothing may land outside."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        inside = Path(folder) / "a" / "b"
        inside.mkdir(parents=True)
        try:
            unpack(_file(data, "archive"), inside)
        finally:
            assert [p.name for p in Path(folder).iterdir()] == ["a"]
            assert [p.name for p in (Path(folder) / "a").iterdir()] == ["b"]


def _archives() -> list[bytes]:
    """A small zip and a small tar, plain and packed, to start from."""
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as pack:
        pack.writestr("set/a.txt", b"hello")
    with tarfile.open(fileobj=tarred, mode="w") as pack:
        info = tarfile.TarInfo("set/a.txt")
        info.size = 5
        pack.addfile(info, io.BytesIO(b"hello"))
    plain = tarred.getvalue()[:2048]
    return [zipped.getvalue(), plain, gzip.compress(plain)]


PARSERS: dict[str, Callable[[bytes], object]] = {
    "attributes": lambda data: _folder_file(data, "attributes.csv"),
    "splits": lambda data: _folder_file(data, "splits.json"),
    "config": config_tree,
    "axis": lambda data: parse_axis(data.decode("utf-8", "replace")),
    "phrase": lambda data: attribute_phrase(data.decode("utf-8", "replace")),
    "slider": lambda data: Slider("x", -2.0, 2.0, 0.1).parse(data.decode("utf-8", "replace")),
    "rows": lambda data: whole_rows(_file(data, "rows.jsonl")),
    "checked": unchecked,
    "image": lambda data: decode(_file(data, "image"), 16),
    "vectors": lambda data: load_vectors(str(_file(data, "vectors.txt"))),
    "archive": archive,
}
SEEDS: dict[str, list[bytes]] = {
    "attributes": [b"class,has_size::small\nbird_0,0.5\nbird_1,1\n"],
    "splits": [b'{"trainval": ["bird_0/0.png"], "test_seen": ["bird_1/4.png"], "test_unseen": ["bird_7/0.png"]}'],
    "config": [b'model.alpha_v 0.5\ntrain.epochs 3\ndata.benchmark "x"\nmodel.method "sp"\nmodel.weak false'],
    "axis": [b"model.alpha_v=0:1", b"train.epochs=1,2", b"loss.gamma=0.1:1:log"], "slider": [b"1.5"],
    "rows": [b'{"a": 1}\n{"b"'], "phrase": [b"has_bill_shape::curved_(up)"],
    "vectors": [b"2 3\nred 1 2 3\nblue 3 2 1\n"],
    "image": [b"\x89PNG\r\n\x1a\n", b"P6 2 2 255\n" + bytes(12), b"GIF89a"],
    "archive": _archives(), "checked": [b"vspcn checked 1 " + b"0" * 64 + b"\nx"]}


def check(parser: str, data: bytes) -> None:
    """Give `data` to a parser; returns where it accepts or refuses it with an error of ours, raises otherwise."""
    try:
        PARSERS[parser](data)
    except Exception as error:
        shown = parser == "slider" and type(error) is ValueError  # the panel's sentence
        if not shown and not type(error).__module__.startswith("vspcn_lib"):
            raise


def main() -> None:
    """Fuzz one parser until a finding or the time is over."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("parser", choices=PARSERS)
    options.add_argument("--seconds", type=int, default=60)
    a = options.parse_args()
    corpus = ROOT / "seeds"
    corpus.mkdir()
    for i, seed in enumerate(SEEDS.get(a.parser, [])):
        (corpus / str(i)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={a.seconds}", "-rss_limit_mb=4096", "-timeout=10"],
                  lambda data: check(a.parser, data))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
