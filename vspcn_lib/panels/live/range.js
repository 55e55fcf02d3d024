// A slider with its number beside it: the number follows the drag, aria values are rounded, a bad entry is marked red.
function render({ model, el }) {
  el.classList.add("vspcn");
  const id = `range-${Math.random().toString(36).slice(2)}`, digits = () => {
    const [places, exponent] = `${model.get("step")}`.split("e-");  // 0.0005, and 5e-7
    return (places.split(".")[1] || "").length + +(exponent || 0);
  };
  const spelled = (v) => (model.get("whole") ? `${Math.round(v)}` : `${+(+v).toFixed(Math.max(2, digits()))}`);
  const slider = make("input", { type: "range", id, min: model.get("min"), max: model.get("max"), step: model.get("step"),
    "aria-label": model.get("label"), title: model.get("hint") });
  const box = make("input", { type: "text", "aria-label": `${model.get("label")}, as a number`, title: model.get("hint") });
  let sent = null;
  const enter = () => { if (box.value !== sent) choose(model, { typed: [sent = box.value, (model.get("typed")[1] || 0) + 1] }); };
  const move = (v) => choose(model, { value: model.get("whole") ? Math.round(v) : +(+v).toFixed(10) });
  slider.addEventListener("input", () => move(+slider.value));
  box.addEventListener("change", enter);
  box.addEventListener("keydown", (e) => { if (e.key === "Enter") enter(); });
  el.addEventListener("keydown", (e) => e.stopPropagation());  // arrows and Enter are not JupyterLab's here
  function update() {
    const v = model.get("value"), wrong = model.get("wrong");
    if (document.activeElement !== slider || Math.abs(+slider.value - v) > 0.51 * model.get("step")) slider.value = v;
    put(slider, { "aria-valuetext": spelled(v), "aria-valuenow": spelled(v) });
    sent = null;
    box.value = wrong ? model.get("typed")[0] : spelled(v);
    box.classList.toggle("bad", !!wrong);
    if (wrong) put(box, { "aria-invalid": "true", title: wrong });
    else { box.removeAttribute("aria-invalid"); box.title = model.get("hint"); }
  }
  el.append(make("div", { class: "vspcn-range", "data-lm-suppress-shortcuts": "true" }, make("label", { for: id, title: model.get("hint") }, model.get("label")), slider, box));
  update();
  return listen(model, ["value", "wrong", "typed"], update);
}
export default { render };
