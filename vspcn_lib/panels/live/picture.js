// A picture that matplotlib drew: sharp on dense screens, with its text for those who cannot see it.
function render({ model, el }) {
  el.classList.add("vspcn", "vspcn-picture");
  const image = make("img");
  let url = "";
  function update() {
    const old = url, view = model.get("value");
    el.style.display = view && view.byteLength ? "" : "none";
    if (view && view.byteLength) image.src = url = URL.createObjectURL(new Blob([view], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
    image.alt = model.get("alt");
    image.style.width = model.get("width") ? `${model.get("width")}px` : "";
    el.classList.toggle("vspcn-chart", model.get("chart"));
  }
  el.append(image);
  update();
  const stop = listen(model, ["value", "alt", "width"], update);
  return () => { stop(); URL.revokeObjectURL(url); };
}
export default { render };
