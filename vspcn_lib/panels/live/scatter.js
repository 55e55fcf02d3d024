// Points of several layouts side by side: hover shows the image, a click pins it, the legend toggles, all layouts move together.
const MARKS = ["circle", "triangle", "square", "diamond"];

function render({ model, el }) {
  el.classList.add("vspcn");
  const root = make("div", { style: "position:relative" }), head = make("div", { class: "vspcn-head" });
  const row = make("div", { class: "vspcn-row" }), legend = make("div", { class: "vspcn-head" }), pins = make("div", { class: "vspcn-cards", "aria-live": "polite" });
  root.append(head, row, legend);
  el.append(root, pins);
  const tip = tooltip(root);
  const S = model.get("side"), n = () => model.get("labels").length;
  let atlas = null, xy = [], panes = [], order = [], hovered = -1, frame = 0, due = false;
  const tiles = new Map();  // of what was pinned once

  const label = (i) => model.get("labels")[i], unseen = (i) => model.get("unseen")[label(i)], names = () => model.get("names");
  const right = (l, i) => model.get("predicted")[l][i] === label(i);
  function key(l, i) {  // what the legend calls a point
    const by = model.get("by");
    if (by === "right or wrong") return right(l, i) ? "right" : "wrong";
    if (by === "seen or unseen") return unseen(i) ? "unseen" : "seen";
    return unseen(i) ? names()[label(i)] : "seen classes";
  }
  function style(name) {  // colour and mark of a legend entry
    const c = model.get("colours"), two = { right: [c[2], 0], wrong: [c[1], 1], seen: ["seen", 0], unseen: [c[1], 0], "seen classes": ["seen", 0] };
    if (two[name]) return two[name];
    const i = names().filter((_, k) => model.get("unseen")[k]).indexOf(name);
    return [c[i % c.length], Math.floor(i / c.length) % MARKS.length];
  }
  const grey = () => getComputedStyle(el).getPropertyValue("--jp-border-color1").trim() || "#bbb";
  function mark(c, kind, x, y, r) {
    c.beginPath();
    if (kind === 0) c.arc(x, y, r, 0, 7);
    else if (kind === 1) { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.1, y + r * 0.8); c.lineTo(x - r * 1.1, y + r * 0.8); c.closePath(); }
    else if (kind === 2) c.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
    else { c.moveTo(x, y - r * 1.3); c.lineTo(x + r * 1.3, y); c.lineTo(x, y + r * 1.3); c.lineTo(x - r * 1.3, y); c.closePath(); }
    c.fill();
  }

  function place() {  // pixels of every point of every layout
    const flat = array(model.get("layouts"), Float32Array), count = n();
    xy = model.get("titles").map((_, l) => {
      const part = flat.subarray(2 * l * count, 2 * (l + 1) * count), out = new Float32Array(2 * count);
      const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
      for (let i = 0; i < 2 * count; i++) { low[i % 2] = Math.min(low[i % 2], part[i]); high[i % 2] = Math.max(high[i % 2], part[i]); }
      for (let i = 0; i < 2 * count; i++) out[i] = 10 + (part[i] - low[i % 2]) / (high[i % 2] - low[i % 2] || 1) * (S - 20);
      for (let i = 0; i < count; i++) out[2 * i + 1] = S - out[2 * i + 1];
      return out;
    });
    order = [...Array(count).keys()].sort((a, b) => unseen(a) - unseen(b));  // seen ones below
    panes = model.get("titles").map((title, l) => {
      const points = sharp(S, S), over = sharp(S, S, { role: "img", "aria-label": `${title}: ${count} test images` });
      over.style.position = "absolute"; over.style.inset = "0"; over.style.cursor = "crosshair";
      const box = make("div", { style: `position:relative;width:${S}px;height:${S}px;outline:1px solid var(--jp-border-color2,#ddd)` }, points, over);
      over.addEventListener("pointermove", (e) => hover(l, e));
      over.addEventListener("pointerleave", () => { hovered = -1; tip.hide(); rings(); });
      over.addEventListener("click", (e) => { const i = nearest(l, e); if (i >= 0) pin(i); });
      return { title, l, points, over, box };
    });
    row.replaceChildren(...panes.map((p) => make("div", {}, make("div", { style: "max-width:" + S + "px" }, p.title), p.box)));
  }
  const hidden = (l, i) => model.get("hidden").includes(key(l, i));
  function paintPoints() {
    const base = grey();
    for (const { points, l } of panes) {
      const c = points.getContext("2d");
      c.clearRect(0, 0, S, S);
      for (const i of order) {
        if (hidden(l, i)) continue;
        const [colour, kind] = style(key(l, i));
        c.fillStyle = colour === "seen" ? base : colour;
        mark(c, kind, xy[l][2 * i], xy[l][2 * i + 1], unseen(i) || model.get("by") === "right or wrong" ? 3.4 : 2.6);
      }
    }
    rings();
  }
  function rings() {  // over the points: what is pinned and what is pointed at, in every layout
    const ink = getComputedStyle(el).color;
    for (const { over, l } of panes) {
      const c = over.getContext("2d");
      c.clearRect(0, 0, S, S);
      for (const [list, r, wide] of [[model.get("pinned"), 7, 2], [[model.get("picked")], 9, 2.5], [[hovered], 9, 1.5]]) for (const i of list) {
        if (i < 0 || i >= n()) continue;
        c.strokeStyle = ink; c.lineWidth = wide;
        c.beginPath(); c.arc(xy[l][2 * i], xy[l][2 * i + 1], r, 0, 7); c.stroke();
      }
    }
  }
  function nearest(l, event) {
    const box = panes[l].over.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, far = 16 * 16;
    for (let i = 0; i < n(); i++) {
      const d = (xy[l][2 * i] - x) ** 2 + (xy[l][2 * i + 1] - y) ** 2;
      if (d < far && !hidden(l, i)) { far = d; best = i; }
    }
    return best;
  }
  const said = (i) => [`${names()[label(i)]} (${unseen(i) ? "unseen" : "seen"})`, ...model.get("titles").map((t, l) =>
    `${model.get("runs")[l]}: ${right(l, i) ? "right" : names()[model.get("predicted")[l][i]]}`)];
  function hover(l, event) {
    const i = nearest(l, event);
    if (i < 0) tip.hide();
    else {
      const frame = root.getBoundingClientRect();
      tip.show(event.clientX - frame.left, event.clientY - frame.top, make("div", { style: "display:flex;gap:8px" },
        tile(atlas, i, model.get("tile"), model.get("columns"), 72), make("div", {}, ...lines(...said(i)))));
    }
    if (i !== hovered) { hovered = i; rings(); }
  }
  function pin(i) {
    choose(model, { picked: i, pinned: [i, ...model.get("pinned").filter((k) => k !== i)].slice(0, 8) });
  }
  function pinnedTile(i) {
    if (!tiles.has(i)) tiles.set(i, tile(atlas, i, model.get("tile"), model.get("columns"), 72));
    return tiles.get(i);
  }
  function cards() {
    pins.replaceChildren(...model.get("pinned").map((i) => {
      const card = make("div", { class: `vspcn-card${i === model.get("picked") ? " picked" : ""}`, style: "width:150px" },
        pinnedTile(i), ...said(i).map((t) => make("div", { class: "line", title: t }, t)));
      const away = pressable(`unpin ${names()[label(i)]}`, (e) => { e.stopPropagation(); choose(model, { pinned: model.get("pinned").filter((k) => k !== i) }); });
      away.append("unpin");
      card.append(away);
      card.addEventListener("click", () => choose(model, { picked: i }));
      return card;
    }));
  }
  function keys() {
    const found = [...new Set(panes.flatMap((p) => order.map((i) => key(p.l, i))))].sort();
    legend.replaceChildren(...found.slice(0, 48).map((name) => {
      const off = model.get("hidden").includes(name), [colour, kind] = style(name), swatch = sharp(14, 14), c = swatch.getContext("2d");
      c.fillStyle = colour === "seen" ? grey() : colour;
      mark(c, kind, 7, 7, 4.5);
      swatch.style.verticalAlign = "-2px";
      const b = pressable(`${off ? "show" : "hide"} ${name}`, () => choose(model, { hidden: off ? model.get("hidden").filter((k) => k !== name)
        : [...model.get("hidden"), name] }), { class: off ? "off" : "", "aria-pressed": `${!off}`, style: "background:none" });
      b.append(swatch, ` ${name}`);
      return b;
    }));
    const select = make("select", { "aria-label": "colour by", onchange: () => choose(model, { by: select.value, hidden: [] }) },
      ...["class", "seen or unseen", "right or wrong"].map((v) => make("option", { value: v, selected: v === model.get("by") }, v)));
    head.replaceChildren("colour by", select, make("span", { class: "vspcn-said" }, "point at a point to see its image, click to pin it"));
  }
  const all = () => { place(); keys(); paintPoints(); cards(); };
  const pictures = () => bitmap(model.get("atlas")).then((b) => { atlas = b; tiles.clear(); cards(); });
  const soon = () => {  // a click changes two traits: what they show is drawn once
    if (!due) queueMicrotask(() => { due = false; cards(); rings(); });
    due = true;
  };
  all(); pictures();
  const themed = new MutationObserver(() => { keys(); paintPoints(); });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  const stop = [listen(model, ["layouts", "titles", "predicted", "labels"], () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(all); }),
    listen(model, ["by", "hidden"], () => { keys(); paintPoints(); }), listen(model, ["pinned", "picked"], soon),
    listen(model, ["atlas"], pictures)];
  return () => { themed.disconnect(); stop.forEach((f) => f()); };
}
export default { render };
