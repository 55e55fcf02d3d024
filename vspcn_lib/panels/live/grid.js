// Every map of one image at once, blocks by prompts, and the one pointed at or picked large beside them.
function render({ model, el }) {
  el.classList.add("vspcn");
  const S = model.get("small"), B = model.get("side"), row = make("div", { class: "vspcn-row" });
  const table = make("div", { role: "grid", "aria-label": "attention of every block and prompt" }), large = make("div", { style: `width:${B}px` }), tipped = make("div", { class: "vspcn-said", style: `min-height:3em;max-width:${B}px` });
  row.append(table, make("div", {}, large, tipped));
  el.append(row);
  let image = null, cells = [], maps = [], top = [];
  const [picked] = [() => model.get("picked")];
  function big(r, c) {
    const canvas = sharp(B, B, { role: "img", "aria-label": `block ${model.get("rows")[r]}, ${model.get("columns")[c]}` });
    paint(canvas, image, maps[r * model.get("columns").length + c], model.get("cells"), top[r * model.get("columns").length + c], array(model.get("palette"), Uint8Array));
    large.replaceChildren(make("div", {}, `block ${model.get("rows")[r]}, ${model.get("columns")[c]}`), canvas);
    const words = model.get("words")[r]?.[c], change = model.get("change")[r]?.[c];
    tipped.replaceChildren(...lines(...(change === undefined ? [] : [change < model.get("floor") ? "the same for all images" : `differs between images by ${(100 * change).toFixed(0)} % of the attention`]),
      ...(words ? [`attends to ${words}${model.get("alike")[r]?.[c] ? " – whatever the image" : ""}`] : [])));
  }
  function draw() {
    const rows = model.get("rows"), columns = model.get("columns"), k = model.get("cells"), flat = array(model.get("maps"), Float32Array), palette = array(model.get("palette"), Uint8Array);
    maps = rows.flatMap((_, r) => columns.map((_, c) => flat.subarray((r * columns.length + c) * k * k, (r * columns.length + c + 1) * k * k)));
    top = maps.map((m) => Math.max(...m, 1e-9));
    cells = [];
    const grid = make("div", { style: `display:grid;grid-template-columns:28px repeat(${columns.length},${S}px);gap:2px;align-items:center` },
      make("span"), ...columns.map((c) => make("span", { style: "font-size:9px;text-align:center" }, c.replace(/^prompt /, ""))));
    rows.forEach((block, r) => {
      grid.append(make("span", { style: "font-size:10px;text-align:right" }, `${block}`));
      columns.forEach((name, c) => {
        const canvas = sharp(S, S), i = r * columns.length + c, same = model.get("change")[r]?.[c] < model.get("floor");
        paint(canvas, null, maps[i], k, top[i], palette);
        const cell = make("div", { role: "gridcell", tabindex: 0, "aria-label": `block ${block}, ${name}${same ? ", the same for all images" : ""}`,
          style: `position:relative;width:${S}px;height:${S}px;cursor:pointer` }, canvas);
        if (same) cell.append(make("span", { style: "position:absolute;right:1px;bottom:-2px;font-size:11px;color:#fff;text-shadow:0 0 2px #000", title: "the same for all images" }, "="));
        if (model.get("alike")[r]?.[c]) cell.append(make("span", { style: "position:absolute;left:1px;bottom:-2px;font-size:11px;color:#fff;text-shadow:0 0 2px #000",
          title: "the same strongest word for all images" }, "w"));
        const act = () => choose(model, { picked: [r, c] });
        cell.addEventListener("pointerenter", () => big(r, c));
        cell.addEventListener("click", act);
        cell.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); act(); } e.stopPropagation(); });
        cells.push(cell);
        grid.append(cell);
      });
    });
    grid.addEventListener("pointerleave", () => big(...picked()));
    const deep = model.get("alike").flat().filter((w) => w !== null);
    const alike = model.get("change").flat().filter((v) => v < model.get("floor")).length, all = model.get("change").flat().length;
    table.replaceChildren(make("div", { class: "vspcn-head" }, make("b", {}, "block × prompt"), make("span", { class: "vspcn-said" }, all ? `the same for all images: ${alike} of ${all} maps (=)${deep.length ? `, the strongest word of ${deep.filter((w) => w).length} of ${deep.length} (w)` : ""}` : "")), grid);
    pick();
  }
  function pick() {
    const [r, c] = picked(), k = model.get("columns").length;
    cells.forEach((cell, i) => { cell.style.outline = i === r * k + c ? "2px solid var(--jp-brand-color1, #1976d2)" : ""; });
    big(r, c);
  }
  const picture = () => bitmap(model.get("image")).then((b) => { image = b; draw(); });
  picture();
  const stop = [listen(model, ["maps", "rows", "columns", "change", "words", "alike"], draw), listen(model, ["picked"], pick), listen(model, ["image"], picture)];
  return () => stop.forEach((f) => f());
}
export default { render };
