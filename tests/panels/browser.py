"""JupyterLab in headless Chromium, for the tests and the tour: a server over copies of the notebooks, and a page."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUN = ROOT / "outputs" / "demo" / "birdlets" / "result.json"
TOKEN = "browser-test"  # noqa: S105 - of a server that lives for one test, on this machine alone
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@contextmanager
def laboratory(home: Path) -> Iterator[str]:
    """JupyterLab as `make lab` starts it, over copies of the notebooks in `home`; the address of its pages."""
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    for name in ("outputs", "records", "figures"):
        (home / name).symlink_to(ROOT / name)
    settings = home / "settings"
    settings.mkdir()
    overrides = {"@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
                 "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"}}
    (settings / "overrides.json").write_text(json.dumps(overrides))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               f"--IdentityProvider.token={TOKEN}", f"--LabApp.app_settings_dir={settings}", f"--notebook-dir={home}",
               f"--config={ROOT / 'notebooks' / 'lab_config.py'}"]
    environment = {k: v for k, v in os.environ.items() if k != "VSPCN_CACHE"}
    with (home / "lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2).read()
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                raise RuntimeError(f"JupyterLab did not start: {(home / 'lab.log').read_text()[-800:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def window(profile: Path, width: int = 1400, height: int = 900) -> Iterator[Any]:
    """One page of Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS,
            viewport={"width": width, "height": height})
        page = context.pages[0] if context.pages else context.new_page()
        page.set_default_timeout(120_000)
        yield page
        context.close()


def command(page: Any, words: str) -> None:
    """A command of JupyterLab's palette."""
    page.keyboard.press("Control+Shift+C")
    page.wait_for_selector(".lm-CommandPalette-input")
    page.keyboard.type(words)
    page.wait_for_timeout(400)
    page.keyboard.press("Enter")


def open_notebook(page: Any, lab: str, name: str, ready: str, run: bool = True) -> float:
    """Open a notebook and run all of it; seconds from the start of the run until `ready` was on the page."""
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector("#jp-main-statusbar >> text=/Idle/")
    start = time.monotonic()
    if run:
        command(page, "Restart Kernel and Run All Cells")
        page.click("button:has-text('Restart')")
    page.wait_for_selector(ready, timeout=300_000)
    took = time.monotonic() - start
    if run:
        page.wait_for_selector("#jp-main-statusbar >> text=/Idle/", timeout=300_000)
    if page.locator(".jp-SideBar.jp-mod-left .lm-mod-current").count():
        page.keyboard.press("Control+b")
    page.locator(ready).first.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    return took
