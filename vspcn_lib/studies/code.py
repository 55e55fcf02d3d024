"""The version of the code that decides a run's numbers, found from the imports."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1]
# The registry names every method; a run's numbers come through its own alone, which is hashed with it.
REGISTRY = "methods/registry"


def deciding(*start: str) -> list[str]:
    """Every file that `start` comes through ("train", "methods/vpt"), by its imports, sorted.

    Left out are `config` (its values are part of a run's key) and the wing `system`, which knows nothing of learning.
    """
    found, new = set(), {s for s in start if _file(s).exists()}
    while new:
        found |= new
        new = {m for name in new if name != REGISTRY for m in imported(_file(name))} - found
        new = {m for m in new if m != "config" and not m.startswith("system/")}
    return sorted(found)


def imported(path: Path) -> set[str]:
    """The files of the house that a file imports, at its top or inside a function: "losses", "data/images"."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == HOUSE.name:
            base = node.module.split(".")[1:]
            names |= {"/".join(base)} if base else set()
            names |= {"/".join([*base, a.name]) for a in node.names}
    return {n for n in names if _file(n).exists()}


@cache
def code_version(*start: str) -> str:
    """A hash over the definitions of every `deciding` file; where they stand, comments and docstrings do not count."""
    parts = []
    for name in deciding(*start):
        for node in ast.parse(_file(name).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
                continue
            for inner in ast.walk(node):
                body = getattr(inner, "body", None)
                if isinstance(body, list):
                    inner.body = [n for n in body if not _is_text(n) and not isinstance(n, ast.Import | ast.ImportFrom)]
            parts.append(hashlib.sha256(ast.dump(node).encode()).hexdigest())
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]


def _file(name: str) -> Path:
    return HOUSE / f"{name}.py"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
