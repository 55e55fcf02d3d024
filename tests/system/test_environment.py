"""What a record says of the code that made it: a commit, and -dirty only where code differs from it."""

import json
import subprocess

from vspcn_lib.system.environment import commit


def _notebook(source, *outputs, count=1):
    return json.dumps({"cells": [{"cell_type": "code", "source": [source], "outputs": list(outputs),
                                  "execution_count": count}]})


def test_a_notebook_that_was_only_run_again_leaves_the_commit_clean(tmp_path):
    def git(*arguments):
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments], cwd=tmp_path,
                              check=True, capture_output=True, text=True).stdout.strip()

    assert commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "a b.ipynb").write_text(_notebook("x = 1"))
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")[:12]
    assert commit(tmp_path) == head
    (tmp_path / "a b.ipynb").write_text(_notebook("x = 1", {"output_type": "stream", "text": "2"}, count=7))
    (tmp_path / "new.txt").write_text("untracked")
    assert commit(tmp_path) == head
    for name, text in (("a b.ipynb", _notebook("x = 2")), ("a b.ipynb", "{"), ("code.py", "2")):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        assert commit(tmp_path) == f"{head}-dirty", name
        (tmp_path / name).write_text(before)
    (tmp_path / "code.py").unlink()
    assert commit(tmp_path) == f"{head}-dirty"
