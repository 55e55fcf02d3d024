// Images to choose from: by class, unseen only, wrong only; a click picks one.
function render({ model, el }) {
  el.classList.add("vspcn");
  const head = make("div", { class: "vspcn-head" }), cards = make("div", { class: "vspcn-cards vspcn-scroll" });
  cards.style.maxHeight = `${model.get("height")}px`;
  el.append(head, cards);
  let atlas = null;
  const only = (i) => (model.get("only_class") < 0 || model.get("labels")[i] === model.get("only_class"))
    && (!model.get("only_unseen") || model.get("unseen")[model.get("labels")[i]]) && (!model.get("only_wrong") || model.get("wrong")[i]);
  function draw() {
    const shown = model.get("labels").map((_, i) => i).filter(only), names = model.get("names"), classes = [...new Set(model.get("labels"))];
    classes.sort((a, b) => names[a].localeCompare(names[b]));
    const select = make("select", { "aria-label": "class", onchange: () => choose(model, { only_class: +select.value }) },
      make("option", { value: -1 }, "all classes"),
      ...classes.map((c) => make("option", { value: c, selected: c === model.get("only_class") }, `${names[c]}${model.get("unseen")[c] ? " (unseen)" : ""}`)));
    const tick = (trait, text) => make("label", {}, make("input", { type: "checkbox", checked: model.get(trait), onchange: (e) => choose(model, { [trait]: e.target.checked }) }), ` ${text}`);
    head.replaceChildren(make("b", {}, model.get("title")), select, tick("only_unseen", "unseen only"),
      ...(model.get("wrong").length ? [tick("only_wrong", "wrong only")] : []), make("span", { class: "vspcn-said", role: "status" }, `${shown.length} of ${model.get("labels").length} images`));
    const wide = model.get("shown");
    cards.replaceChildren(...shown.slice(0, 400).map((i) => {
      const captions = model.get("captions")[i] || [names[model.get("labels")[i]]];
      const card = pressable(captions.join(", "), () => choose(model, { picked: i }), { class: `vspcn-card${i === model.get("picked") ? " picked" : ""}`,
        style: `width:${Math.max(wide, model.get("wide"))}px`, title: captions.join("\n"), "data-image": i });
      card.append(tile(atlas, i, model.get("tile"), model.get("columns"), wide), ...captions.map((t) => make("div", { class: "line" }, t)));
      return card;
    }));
  }
  function pick() {
    for (const card of cards.children) card.classList.toggle("picked", +card.dataset.image === model.get("picked"));
  }
  const pictures = () => bitmap(model.get("atlas")).then((b) => { atlas = b; draw(); });
  draw(); pictures();
  const stop = [listen(model, ["labels", "captions", "wrong", "only_class", "only_unseen", "only_wrong"], draw), listen(model, ["picked"], pick), listen(model, ["atlas"], pictures)];
  return () => stop.forEach((f) => f());
}
export default { render };
