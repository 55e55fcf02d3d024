// One image, and maps laid over its grey copy; the last map can be a mix of two others, mixed in the browser.
function render({ model, el }) {
  el.classList.add("vspcn");
  const row = make("div", { class: "vspcn-row" }), S = model.get("side");
  el.append(row);
  let image = null;
  function draw() {
    const flat = array(model.get("maps"), Float32Array), palette = array(model.get("palette"), Uint8Array), k = model.get("cells"), size = k * k;
    const maps = model.get("titles").map((_, i) => flat.subarray(i * size, (i + 1) * size));
    const [a, b] = model.get("mixed");
    if (model.get("mixed").length) maps[maps.length - 1] = maps[a].map((v, i) => model.get("mix") * v + (1 - model.get("mix")) * maps[b][i]);
    const top = Math.max(...maps.map((m) => Math.max(...m)), 1e-9);  // one scale, so that noise is no structure
    const plain = sharp(S, S, { role: "img", "aria-label": `the image: ${model.get("name")}` });
    if (image) plain.getContext("2d").drawImage(image, 0, 0, S, S);
    row.replaceChildren(make("div", {}, make("div", {}, model.get("name")), plain), ...maps.map((m, i) => {
      const c = sharp(S, S, { role: "img", "aria-label": `${model.get("titles")[i]} over the image` });
      paint(c, image, m, k, top, palette);
      const title = model.get("titles")[i].replace("{mix}", model.get("mix").toFixed(2)).replace("{rest}", (1 - model.get("mix")).toFixed(2));
      return make("div", {}, make("div", {}, title), c);
    }));
  }
  const picture = () => bitmap(model.get("image")).then((b) => { image = b; draw(); });
  picture();
  const stop = [listen(model, ["maps", "mix", "titles", "name"], draw), listen(model, ["image"], picture)];
  return () => stop.forEach((f) => f());
}
export default { render };
