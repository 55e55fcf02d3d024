"""The notebooks as a reader uses them: drag, hover, click, choose, export, dark theme, save, reopen without a kernel.

What must be fast is measured as the median of 20 and printed; a test fails only at five times the value wanted, since
the machine may be shared.
"""

import json
import os
import re
import statistics
import time

import numpy as np
import pytest
from browser import CHROMIUM, ROOT, RUN, TOKEN, command, laboratory, open_notebook, window

from vspcn_lib import metrics

SHOTS = ROOT / "outputs" / "browser"  # artefacts of the run, not committed
MISSING = "Chromium is not installed" if CHROMIUM is None else "" if RUN.exists() else (
    "outputs/demo/birdlets is missing: run `make demo` first")
WANTED: dict[str, tuple[float, float]] = {}  # what was measured, and what was wanted, in milliseconds


@pytest.fixture(scope="module", autouse=True)
def needed():
    """Chromium and the demo's run; where CI asks for this test, their absence is a failure."""
    if MISSING and os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    if MISSING:
        pytest.skip(MISSING)
    yield
    for name, (found, wanted) in WANTED.items():
        print(f"\n{name}: median {found:.1f} ms (wanted {wanted:g})", end="")
    print()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, needed):
    home = tmp_path_factory.mktemp("lab")
    with laboratory(home) as address:
        yield address, home


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory):
    pytest.importorskip("playwright.sync_api")
    with window(tmp_path_factory.mktemp("profile")) as page:
        yield page


def _measured(name: str, wanted: float, times: list[float]) -> None:
    found = statistics.median(times)
    WANTED[name] = found, wanted
    assert found < 5 * wanted, f"{name}: {found:.0f} ms, wanted {wanted:g}"


def _shot(page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"))


def _numbers(page) -> str:
    return page.locator(".jp-OutputArea .widget-html-content pre").first.inner_text()


def _eventually(page, change, seconds: float = 30.0):
    """Wait until `change()` is true; its value."""
    end = time.monotonic() + seconds
    while not (found := change()) and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert found
    return found


# Milliseconds from an event at the slider (or at a canvas) until what `watch` looks at has changed, 20 times.
MOVES = """async ([slider, watch, values, which]) => {
  const input = document.querySelector(slider), seen = document.querySelectorAll(watch)[which || 0], times = [];
  for (const v of values) {
    const changed = new Promise((done) => {
      const observer = new MutationObserver(() => { observer.disconnect(); done(); });
      observer.observe(seen, { subtree: true, attributes: true, childList: true, characterData: true });
      setTimeout(() => { observer.disconnect(); done(); }, 5000);
    });
    const start = performance.now();
    input.value = v; input.dispatchEvent(new Event("input"));
    await changed;
    times.push(performance.now() - start);
    await new Promise((r) => setTimeout(r, 60));
  }
  return times;
}"""


# Milliseconds between two pictures while a slider is dragged from `low` to `high` and back, one event a frame, for 2 s.
DRAG = """async ([slider, watch, low, high, which]) => {
  const input = document.querySelector(slider), seen = document.querySelectorAll(watch)[which || 0], times = [];
  let changed = false;
  const observer = new MutationObserver(() => { changed = true; });
  observer.observe(seen, { subtree: true, attributes: true, childList: true, characterData: true });
  const start = performance.now();
  let last = start;
  for (let i = 0; performance.now() - start < 2000; i++) {
    input.value = low + (high - low) * Math.abs((i / 30) % 2 - 1);
    input.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
    if (changed) { times.push(performance.now() - last); last = performance.now(); changed = false; }
  }
  observer.disconnect();
  return times;
}"""

# Milliseconds from a click at a point until its card is below, for 20 points of the first layout.
PINS = """async () => {
  const c = document.querySelector('.vspcn canvas[role=img]'), b = c.getBoundingClientRect(), times = [];
  const pins = document.querySelector('.vspcn-cards[aria-live]'), tip = c.closest('.vspcn').querySelector('.vspcn-tip');
  for (let i = 1; times.length < 20 && i < 2000; i++) {
    const at = {clientX: b.left + b.width * (i * 0.6180339887 % 1), clientY: b.top + b.height * (i * 0.7548776662 % 1)};
    c.dispatchEvent(new PointerEvent('pointermove', at));
    if (tip.style.display === 'none') continue;
    const before = pins.innerText, start = performance.now();
    const changed = new Promise((done) => {
      const observer = new MutationObserver(() => { observer.disconnect(); done(true); });
      observer.observe(pins, {childList: true});
      setTimeout(() => { observer.disconnect(); done(false); }, 5000);
    });
    c.dispatchEvent(new MouseEvent('click', at));
    if (await changed) times.push(performance.now() - start);
    await new Promise((r) => setTimeout(r, 60));
  }
  return times;
}"""


def test_tau_is_dragged_hovered_and_clicked(page, lab):
    address, _ = lab
    open_notebook(page, address, "05_calibration", ".vspcn svg rect")
    slider, svg = page.locator(".vspcn-range input[type=range]").first, page.locator(".vspcn svg").first
    before, box = _numbers(page), slider.bounding_box()
    page.evaluate("""() => { window.frames0 = 0; new MutationObserver(() => window.frames0++).observe(
        document.querySelectorAll('.vspcn svg')[1], {subtree: true, attributes: true, attributeFilter: ['y']}); }""")
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.7 * box["width"], y)
    page.mouse.down()
    for i in range(40):
        page.mouse.move(box["x"] + (0.7 - 0.01 * i) * box["width"], y)
    readout = page.locator(".vspcn-head b").first.inner_text()
    page.mouse.up()
    assert page.evaluate("window.frames0") >= 5, "the bars stood still while the slider was dragged"
    tau, u, s, h = (float(x.replace("−", "-")) for x in re.search(
        r"tau ([+−][\d.]+): U ([\d.]+)\s+S ([\d.]+)\s+H ([\d.]+)", readout).groups())
    with np.load(ROOT / "records" / "scores" / "birdlets-84px-seed0.npz") as r:
        at = metrics.gzsl_metrics(r["scores"], r["labels"], r["unseen"], tau)
    assert (u, s, h) == pytest.approx((at.U, at.S, at.H), abs=0.06)
    _eventually(page, lambda: _numbers(page) != before)
    box = svg.bounding_box()
    page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + 0.1 * box["height"])
    page.wait_for_selector(".vspcn-tip:visible")
    hovered = page.locator(".vspcn-tip:visible").first.inner_text()
    _shot(page, "05-hover")
    page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.1 * box["height"])
    u_hovered = re.search(r"U ([\d.]+)", hovered)[1]
    _eventually(page, lambda: f"U {float(u_hovered):.1f}" in re.sub(r"U ([\d.]+)", lambda m: f"U {float(m[1]):.1f}",
                                                                    _numbers(page)))
    times = page.evaluate(MOVES, [".vspcn-range input[type=range]", ".vspcn svg",
                                  [round(0.5 + 0.2 * i, 2) for i in range(20)]])
    _measured("tau move to changed picture", 20, times)
    _measured("tau, between two pictures while dragging", 40, page.evaluate(DRAG, [
        ".vspcn-range input[type=range]", ".vspcn svg", -1.0, 6.0]))
    bad = page.locator(".vspcn-range input[type=text]").first
    bad.fill("many")
    bad.press("Enter")
    page.wait_for_selector("[role=status]:has-text('is not a number')", timeout=20_000)
    assert "bad" in bad.get_attribute("class") and bad.get_attribute("aria-invalid") == "true"
    page.keyboard.press("Escape")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    _eventually(page, lambda: "bad" not in (bad.get_attribute("class") or ""))
    assert len(slider.get_attribute("aria-valuetext")) <= 6 and slider.get_attribute("aria-label") == "tau"


def test_a_run_is_chosen_and_a_table_exported(page, lab):
    address, _ = lab
    if "05_calibration" not in page.url:
        open_notebook(page, address, "05_calibration", ".vspcn svg rect")
    option = page.locator("select[multiple] option:has-text('demo/birdlets')").first  # there may be later runs
    page.locator("select[multiple]").first.select_option([option.inner_text()])
    _eventually(page, lambda: "demo/birdlets" in _numbers(page), 60)
    saved = ROOT / "outputs" / "saved"
    known = set(saved.glob("*.csv")) if saved.exists() else set()
    page.locator("select:has(option:text('table, CSV'))").first.select_option("table, CSV")
    page.locator("button:has-text('Save')").first.click()
    path = next(iter(_eventually(page, lambda: set(saved.glob("*.csv")) - known)))
    rows = path.read_text().splitlines()
    assert rows[0].startswith("class,side,test images") and len(rows) == 41
    _eventually(page, path.with_suffix(".json").exists)
    path.with_suffix(".json").unlink()
    path.unlink()


def test_a_saved_notebook_has_picture_and_numbers_without_a_kernel_also_in_the_dark(page, lab):
    address, home = lab
    if "05_calibration" not in page.url:
        open_notebook(page, address, "05_calibration", ".vspcn svg rect")
    colour = "getComputedStyle(document.querySelector('.vspcn')).color"
    for theme, light in (("JupyterLab Light", "true"), ("JupyterLab Dark", "false")):
        command(page, theme)
        _eventually(page, lambda light=light: page.evaluate("document.body.dataset.jpThemeLight") == light)
        _eventually(page, lambda light=light: (sum(map(int, re.findall(r"\d+", page.evaluate(colour))[:3])) < 384) == (
            light == "true"))  # dark letters on light, light ones on dark
    _shot(page, "05-dark")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    file = home / "notebooks" / "05_calibration.ipynb"
    _eventually(page, lambda: "widget-view" not in file.read_text() and "image/png" in file.read_text()
                and page.locator(".jp-NotebookPanel .jp-mod-dirty, .lm-TabBar-tab.jp-mod-dirty").count() == 0)
    stored = json.loads(file.read_text())
    assert "widgets" not in stored["metadata"]
    for kernel in json.loads(page.request.get(f"{address}/api/sessions?token={TOKEN}").text()):
        page.request.delete(f"{address}/api/sessions/{kernel['id']}?token={TOKEN}")
    page.goto(f"{address}/lab/tree/notebooks/05_calibration.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-RenderedImage img")
    page.wait_for_timeout(1500)
    text = page.locator(".jp-NotebookPanel").inner_text()
    assert "model not found" not in text and "AUSUC" in text
    command(page, "JupyterLab Light")


@pytest.mark.real_cache
def test_points_show_their_images_and_a_click_pins_one(page, lab):
    address, _ = lab
    took = open_notebook(page, address, "07_tsne", ".vspcn canvas[role=img]")
    WANTED["panel of 07 opens"] = 1000 * took, 15_000
    canvas = page.locator(".vspcn canvas[role=img]").first
    box = canvas.bounding_box()
    times = page.evaluate("""() => {
      const c = document.querySelector('.vspcn canvas[role=img]'), b = c.getBoundingClientRect(), times = [];
      for (let i = 0; i < 20; i++) {
        const start = performance.now();
        c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + b.width * (0.2 + 0.03 * i),
          clientY: b.top + b.height * (0.3 + 0.02 * i)}));
        document.querySelector('.vspcn-tip').offsetWidth;
        times.push(performance.now() - start);
      }
      return times; }""")
    _measured("scatter hover", 10, times)
    for i in range(60):
        page.mouse.move(box["x"] + box["width"] * (0.2 + 0.01 * i), box["y"] + box["height"] * 0.5)
        if page.locator(".vspcn-tip:visible canvas").count():
            break
    tip = page.locator(".vspcn-tip:visible").first.inner_text()
    assert "VSPCN:" in tip and "ViT only:" in tip and ("(seen)" in tip or "(unseen)" in tip)
    _shot(page, "07-hover")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector(".vspcn-card canvas")
    name = tip.splitlines()[0].rsplit(" (", 1)[0]
    _eventually(page, lambda: name in _numbers(page))
    times = page.evaluate(PINS)
    assert len(times) == 20
    _measured("click to pinned photo", 60, times)
    _shot(page, "07-pinned")
    legend = page.locator(".vspcn [role=button][aria-label^='hide ']").first
    legend.click()
    page.wait_for_selector(".vspcn [role=button][aria-label^='show ']")
    page.select_option("select[aria-label='colour by']", "right or wrong")
    page.wait_for_selector(".vspcn [aria-label='hide wrong']")
    _shot(page, "07-right-or-wrong")


@pytest.mark.real_cache
def test_a_cell_of_the_grid_and_a_thumbnail_are_picked(page, lab):
    address, _ = lab
    took = open_notebook(page, address, "06_attention_maps", "[role=gridcell] canvas")
    WANTED["panel of 06 opens"] = 1000 * took, 15_000
    before = _numbers(page)
    page.locator("[role=gridcell]").nth(4).click()  # block 5 of 12: one prompt, so one map a block
    _eventually(page, lambda: _numbers(page) != before)
    before = _numbers(page)
    page.locator(".vspcn-card").nth(4).click()
    _eventually(page, lambda: _numbers(page).splitlines()[0] != before.splitlines()[0])
    _shot(page, "06")


@pytest.mark.real_cache
def test_an_alpha_move_is_answered_at_once_and_in_full_when_it_rests(page, lab):
    address, _ = lab
    took = open_notebook(page, address, "08_hyperparameters", ".vspcn svg circle.now")
    WANTED["panel of 08 opens"] = 1000 * took, 15_000
    before = _numbers(page)
    start = time.monotonic()
    page.evaluate("""() => { const s = document.querySelector('.vspcn-range input[type=range]');
      s.value = 0.85; s.dispatchEvent(new Event('input')); }""")
    _eventually(page, lambda: _numbers(page) != before)
    WANTED["alpha, first answer"] = 1000 * (time.monotonic() - start), 300
    shown = _eventually(page, lambda: _numbers(page) != before and "64 test" in _numbers(page) and _numbers(page))
    WANTED["alpha, full answer"] = 1000 * (time.monotonic() - start), 1500
    assert "alpha_v 0.85" in shown and "…" not in shown
    _shot(page, "08")


@pytest.mark.real_cache
def test_the_sliders_of_fusion_move_their_pictures(page, lab):
    address, _ = lab
    took = open_notebook(page, address, "02_inside_vspcn", ".vspcn-range input[aria-label=alpha_s]")
    WANTED["notebook 02 to its panel"] = 1000 * took, 25_000
    alpha_s, alpha_v = (f".vspcn-range input[type=range][aria-label=alpha_{k}]" for k in "sv")
    page.locator(alpha_s).scroll_into_view_if_needed()
    values = [round(0.05 * (i % 19), 2) for i in range(20)]
    _measured("fusion, alpha_s move to changed bars", 40, page.evaluate(MOVES, [alpha_s, ".vspcn svg[aria-label=mix]",
                                                                                values]))
    _measured("fusion, alpha_v move to changed map", 40, page.evaluate(MOVES, [alpha_v, ".vspcn .vspcn-row", values]))
    _measured("fusion, between two pictures while dragging", 40, page.evaluate(DRAG, [
        alpha_s, ".vspcn svg[aria-label=mix]", 0.0, 1.0]))
    _shot(page, "02-fusion")


def test_no_cell_of_a_table_wraps(page, lab):
    address, _ = lab
    open_notebook(page, address, "04_ablations", ".jp-RenderedHTMLCommon table", run=False)
    tall = page.evaluate("""() => [...document.querySelectorAll('.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th')]
      .filter((e) => { const r = document.createRange(); r.selectNodeContents(e);
        return new Set([...r.getClientRects()].map((b) => Math.round(b.top))).size > 1; }).map((e) => e.textContent)""")
    _shot(page, "04-tables")
    assert tall == []


def test_a_narrow_window_wraps_and_nothing_is_cut(page, lab):
    address, _ = lab
    page.set_viewport_size({"width": 900, "height": 900})
    open_notebook(page, address, "05_calibration", ".vspcn svg rect")
    boxes = page.evaluate("""() => [...document.querySelectorAll('.vspcn svg')].slice(0, 2).map((e) => {
      const b = e.getBoundingClientRect(), o = e.closest('.jp-OutputArea').getBoundingClientRect();
      return [b.left - o.left, b.right - o.right]; })""")
    _shot(page, "05-narrow")
    page.set_viewport_size({"width": 1400, "height": 900})
    assert len(boxes) == 2 and all(left >= -1 and right <= 1 for left, right in boxes)
