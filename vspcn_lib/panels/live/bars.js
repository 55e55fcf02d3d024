// One bar a class: hover names it, the head sorts; heights follow `at` in the browser, without Python.
function render({ model, el }) {
  const W = model.get("width"), H = model.get("height"), L = 46, R = 8, T = 8, B = 22;
  el.classList.add("vspcn");
  const root = make("div", { style: `position:relative;max-width:${W}px` }), head = make("div", { class: "vspcn-head" });
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, width: W, role: "img", "aria-label": model.get("alt") });
  const body = make("tbody"), scroll = make("div", { class: "vspcn-scroll" }), details = make("details", {}, make("summary", {}, "table"), scroll);
  root.append(head, svg, ...(model.get("tabled") ? [details] : []));
  el.append(root);
  const tip = tooltip(root);
  let rects = [], y, order = [], values = [], steps, zero;

  function compute() {
    values = [...model.get("values")];
    const at = model.get("at");
    for (let i = 0; i + 2 < steps.length && steps[i] < at; i += 3) values[steps[i + 1]] += steps[i + 2];
  }
  const shown = (c) => (model.get("changes") ? values[c] - zero[c] : values[c]);
  const keys = { class: (a, b) => model.get("group")[b] - model.get("group")[a] || a - b, name: (a, b) => model.get("names")[a].localeCompare(model.get("names")[b]),
    height: (a, b) => shown(b) - shown(a) };

  function draw() {
    steps = array(model.get("steps"), Float64Array);
    zero = model.get("zero").length ? model.get("zero") : model.get("values").map(() => 0);
    compute();
    const names = model.get("names"), group = model.get("group"), changes = model.get("changes");
    order = names.map((_, c) => c).sort(keys[model.get("sort")]);
    const [low, high] = model.get("span").length ? model.get("span") : [Math.min(0, ...values), Math.max(1e-9, ...values)];
    y = scale(changes ? -high : low, high, H - B, T);
    svg.replaceChildren();
    for (const t of ticks(changes ? -high : low, high, 6)) svg.append(make("line", { class: "faint", x1: L, x2: W - R, y1: y(t), y2: y(t) }),
      make("text", { x: L - 5, y: y(t) + 4, "text-anchor": "end" }, `${t}`));
    svg.append(make("text", { x: 11, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(T + H - B) / 2})` },
      changes ? model.get("axes")[1] : model.get("axes")[0]));
    const wide = (W - L - R) / Math.max(1, order.length);
    rects = order.map((c, i) => {
      const r = make("rect", { x: L + i * wide + wide * 0.1, width: Math.max(0.5, wide * 0.8), fill: model.get("colours")[group[c]] });
      svg.append(r);
      return r;
    });
    svg.append(make("line", { class: "axis", x1: L, x2: W - R, y1: y(0), y2: y(0) }));
    heights();
    buttons();
  }
  function heights() {
    for (let i = 0; i < order.length; i++) {
      const v = shown(order[i]);
      rects[i].setAttribute("y", Math.min(y(v), y(0)));
      rects[i].setAttribute("height", Math.max(0.6, Math.abs(y(v) - y(0))));
    }
    if (details.open) table();
  }
  function table() {
    body.replaceChildren(...order.map((c) => make("tr", {}, make("td", {}, model.get("names")[c]), make("td", {}, model.get("groups")[model.get("group")[c]] || ""),
      ...(model.get("zero").length ? [make("td", {}, zero[c].toFixed(1))] : []), make("td", {}, values[c].toFixed(1)),
      ...(model.get("zero").length ? [make("td", {}, signed(values[c] - zero[c], 1))] : []))));
    const titles = ["class", "", ...(model.get("zero").length ? [model.get("columns")[0]] : []), model.get("columns")[1], ...(model.get("zero").length ? ["change"] : [])];
    scroll.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...titles.map((t) => make("th", {}, t)))), body));
  }
  details.addEventListener("toggle", () => { if (details.open) table(); });
  function buttons() {
    const sort = model.get("sort"), height = !model.get("zero").length ? model.get("columns")[1] : model.get("changes") ? "change" : "accuracy";
    const button = (label, pressed, act) => { const b = pressable(label, act, { "aria-pressed": `${pressed}` }); b.append(label.replace(/^sort by /, "")); return b; };
    head.replaceChildren(...(model.get("title") ? [make("b", {}, model.get("title"))] : []),
      ...(model.get("sortable") ? ["sort by:", button("sort by class", sort === "class", () => choose(model, { sort: "class" })),
        button("sort by name", sort === "name", () => choose(model, { sort: "name" })),
        button(`sort by ${height}`, sort === "height", () => choose(model, { sort: "height" }))] : []),
      ...(model.get("zero").length ? [button(model.get("changes") ? "show accuracy" : "show change", false, () => choose(model, { changes: !model.get("changes") }))] : []),
      ...model.get("groups").map((g, i) => (g ? make("span", {}, make("span", { class: "swatch", style: `background:${model.get("colours")[i]}` }), g) : "")));
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), i = Math.floor(((event.clientX - box.left) * W / box.width - L) / ((W - L - R) / order.length));
    if (!(i >= 0 && i < order.length)) return tip.hide();
    const c = order[i], frame = root.getBoundingClientRect(), digits = model.get("digits");
    tip.show(event.clientX - frame.left, event.clientY - frame.top, ...lines(
      `${model.get("names")[c]}${model.get("groups").length > 1 ? ` (${model.get("groups")[model.get("group")[c]]})` : ""}`,
      model.get("zero").length ? `${model.get("columns")[1]} ${values[c].toFixed(digits)}, ${model.get("columns")[0]} ${zero[c].toFixed(digits)} (${signed(values[c] - zero[c], digits)})`
        : values[c].toFixed(digits)));
  });
  svg.addEventListener("pointerleave", () => tip.hide());
  draw();
  const stop = [listen(model, ["at"], () => { compute(); heights(); }), listen(model, ["values", "names", "steps", "zero", "sort", "changes", "title", "group"], draw)];
  return () => stop.forEach((f) => f());
}
export default { render };
