// Lines with a moving point: hover shows the numbers, a click moves the point there, the legend toggles lines.
const DASHES = { "-": null, "--": "6 3", ":": "2 3", "-.": "6 3 2 3" };

function shape(kind, x, y) {
  if (kind === "diamond") return make("path", { class: "mark", d: `M${x},${y - 6}l6,6l-6,6l-6,-6z` });
  if (kind === "star") {
    const points = [...Array(10).keys()].map((i) => {
      const r = i % 2 ? 3.2 : 8, a = Math.PI * (i / 5 - 0.5);
      return `${x + r * Math.cos(a)},${y + r * Math.sin(a)}`;
    });
    return make("path", { class: "mark", d: `M${points.join("L")}z` });
  }
  return make("circle", { class: "mark", cx: x, cy: y, r: 5 });
}

function render({ model, el }) {
  const W = model.get("width"), H = model.get("height"), L = 46, R = 12, T = 8, B = 36;
  el.classList.add("vspcn");
  const root = make("div", { style: `position:relative;max-width:${W}px` }), head = make("div", { class: "vspcn-head", "aria-live": "off" });
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, width: W, role: "img" });
  root.append(head, svg);
  el.append(root);
  const tip = tooltip(root);
  let x, y, now, contour, hovered;

  const visible = () => model.get("lines").filter((l) => !model.get("hidden").includes(l.name));
  const moves = (l) => !!(l.at || l.rows)?.length;
  const rowOf = (l, at) => (l.rows ? clamp(Math.round(at), 0, l.rows.length - 1) : before(l.at, at));
  const middle = (l, i) => {  // of the step of the line that row i stands for
    if (l.rows) return i;
    if (l.at.length < 2) return 0;
    const hair = (v) => 1e-9 * Math.max(1e-3, Math.abs(v));  // beyond the last margin, not beyond the slider's end
    if (i === l.at.length - 1) return l.at[i] + hair(l.at[i]);
    return i ? (l.at[i] + l.at[i + 1]) / 2 : l.at[1] - hair(l.at[1]);
  };
  const numbers = (l, i, at0) => {
    const [nx, ny, na] = model.get("names"), at = moves(l) ? `${na} ${three(l.rows ? l.rows[i] : at0 ?? middle(l, i))}: ` : "";
    const extra = model.get("harmonic") ? `  H ${(2 * l.x[i] * l.y[i] / (l.x[i] + l.y[i] || 1)).toFixed(1)}` : "";
    const d = (v) => (Math.abs(v) < 10 && !model.get("harmonic") ? +v.toFixed(3) : v.toFixed(1));
    return `${at}${nx} ${d(l.x[i])}  ${ny} ${d(l.y[i])}${extra}`;
  };
  const iso = (h) => {  // points of equal H: y = h x / (2 x - h)
    const [low, high] = model.get("span").x, points = [];
    for (let i = 0; i <= 80; i++) {
      const u = low + (high - low) * i / 80, s = h * u / (2 * u - h);
      if (u > h / 2 && s <= model.get("span").y[1]) points.push(`${x(u)},${y(s)}`);
    }
    return points.length ? `M${points.join("L")}` : "";
  };

  function draw() {
    const span = model.get("span"), [xl, yl] = model.get("axes");
    const all = visible(), flat = (k) => all.flatMap((l) => l[k]);
    const range = (k) => span[k] || [Math.min(...flat(k), ...(k === "y" ? [0] : [])), Math.max(...flat(k), ...(k === "y" ? [1e-9] : []))];
    const rx = all.some((l) => l.x.length) || span.x ? range("x") : [0, 1];
    const ry = all.some((l) => l.y.length) || span.y ? range("y") : [0, 1];
    x = scale(...rx, L, W - R); y = scale(...ry, H - B, T);
    svg.replaceChildren();
    put(svg, { "aria-label": model.get("alt") });
    for (const t of ticks(...rx)) svg.append(make("line", { class: "faint", x1: x(t), x2: x(t), y1: T, y2: H - B }),
      make("text", { x: x(t), y: H - B + 14, "text-anchor": "middle" }, `${t}`));
    for (const t of ticks(...ry, 5)) svg.append(make("line", { class: "faint", x1: L, x2: W - R, y1: y(t), y2: y(t) }),
      make("text", { x: L - 5, y: y(t) + 4, "text-anchor": "end" }, `${t}`));
    if (model.get("harmonic")) for (const h of ticks(...ry, 10).slice(1)) {
      const d = iso(h);
      if (d && h < ry[1]) svg.append(make("path", { class: "faint", d }),
        make("text", { class: "faint-text", x: x(h) + 3, y: y(h) - 3 }, `H ${h}`));
    }
    svg.append(make("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }), make("line", { class: "axis", x1: L, x2: L, y1: T, y2: H - B }));
    svg.append(make("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, xl),
      make("text", { x: 11, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(T + H - B) / 2})` }, yl));
    for (const v of model.get("rules")) svg.append(make("line", { class: "contour", x1: x(v), x2: x(v), y1: T, y2: H - B }));
    for (const l of all) {
      const points = l.x.map((v, i) => `${x(v).toFixed(1)},${y(l.y[i]).toFixed(1)}`);
      svg.append(make("path", { d: points.length ? `M${points.join("L")}` : "", fill: "none", stroke: l.colour, "stroke-dasharray": DASHES[l.dash],
        "stroke-width": l.thin ? 0.7 : l.name === model.get("on") ? 2.6 : 1.4 }));
      if (l.dots) for (let i = 0; i < l.x.length; i++) svg.append(make("circle", { cx: x(l.x[i]), cy: y(l.y[i]), r: l.thin ? 1.6 : 3, fill: l.colour }));
    }
    for (const m of model.get("marks")) if (all.some((l) => l.name === m.line)) {
      const e = shape(m.shape, x(m.x), y(m.y));
      e.append(make("title", {}, m.label));
      svg.append(e);
    }
    contour = make("path", { class: "contour" });
    hovered = make("circle", { r: 5, fill: "none", class: "spread", visibility: "hidden" });
    now = make("g", {});
    svg.append(contour, now, hovered);
    move();
  }

  function move() {
    const l = visible().find((one) => one.name === model.get("on")), fixed = model.get("point");
    now.replaceChildren();
    let text = "";
    if (fixed.length) {
      const [px, py, error] = fixed;
      if (error) now.append(make("line", { class: "spread", x1: x(px), x2: x(px), y1: y(py - error), y2: y(py + error) }));
      now.append(make("circle", { class: "now", cx: x(px), cy: y(py), r: 6 }));
    } else if (l && moves(l)) {
      const i = rowOf(l, model.get("at"));
      now.append(make("circle", { class: "now", cx: x(l.x[i]), cy: y(l.y[i]), r: 6.5 }));
      text = `${l.name}, ${numbers(l, i, model.get("at"))}`;
    }
    readout.textContent = text || model.get("said");
  }

  const readout = make("b", { role: "status" });
  function legend() {
    const named = model.get("lines").filter((l) => !l.thin);
    head.replaceChildren(...(model.get("title") ? [make("b", {}, model.get("title"))] : []), readout, ...named.map((l) => {
      const off = model.get("hidden").includes(l.name);
      return pressable(`${off ? "show" : "hide"} ${l.name}`, () => choose(model, { hidden: off ? model.get("hidden").filter((n) => n !== l.name)
        : [...model.get("hidden"), l.name] }), { class: off ? "off" : "", "aria-pressed": !off && l.name === model.get("on") ? "true" : "false" },
      );
    }));
    head.querySelectorAll("[role=button]").forEach((e, i) => {
      const l = named[i];
      e.append(make("span", { class: "swatch", style: `background:${l.colour}` }), l.name);
    });
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect(), k = W / box.width;
    const mx = (event.clientX - box.left) * k, my = (event.clientY - box.top) * k;
    let best = null, far = 30 * 30;
    for (const l of visible()) for (let i = 0; i < l.x.length; i++) {
      const d = (x(l.x[i]) - mx) ** 2 + (y(l.y[i]) - my) ** 2;
      if (d < far) { far = d; best = { l, i }; }
    }
    return { best, mx, my, px: event.clientX - root.getBoundingClientRect().left, py: event.clientY - root.getBoundingClientRect().top };
  }
  svg.addEventListener("pointermove", (event) => {
    const { best, mx, my, px, py } = nearest(event);
    if (model.get("harmonic")) {
      const span = model.get("span"), u = scale(L, W - R, ...span.x)(mx), s = scale(H - B, T, ...span.y)(my);
      put(contour, { d: u > 0 && s > 0 ? iso(2 * u * s / (u + s)) : "" });
    }
    put(hovered, { visibility: best ? "visible" : "hidden", ...(best ? { cx: x(best.l.x[best.i]), cy: y(best.l.y[best.i]) } : {}) });
    svg.style.cursor = best && moves(best.l) ? "pointer" : "default";
    if (best) tip.show(px, py, ...lines(best.l.name, numbers(best.l, best.i))); else tip.hide();
    if (best && moves(best.l) && event.buttons === 1) pick(best);  // drag along the curve
  });
  svg.addEventListener("pointerleave", () => { tip.hide(); put(contour, { d: "" }); put(hovered, { visibility: "hidden" }); });
  function pick({ l, i }) {
    choose(model, { on: l.name, at: middle(l, i) });
  }
  svg.addEventListener("pointerdown", (event) => { const { best } = nearest(event); if (best && moves(best.l)) pick(best); });

  legend(); draw();
  const stop = [listen(model, ["lines", "hidden", "marks", "span", "on", "title", "rules"], () => { legend(); draw(); }), listen(model, ["at", "point", "said"], move)];
  return () => stop.forEach((f) => f());
}
export default { render };
