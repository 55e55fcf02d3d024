// What every live picture needs: elements, scales, a tooltip that stays inside, binary arrays, maps over images.
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...inside) {
  const e = ["svg", "g", "path", "line", "rect", "circle", "text", "title"].includes(tag)
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...inside);
  return e;
}

const put = (e, attributes) => { for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v); return e; };
const signed = (x, digits) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const three = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toPrecision(3);  // as metrics.tau_text
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Binary traits arrive as DataViews at any offset.
const array = (view, Kind) => view && view.byteLength
  ? new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)) : new Kind(0);

const scale = (low, high, from, to) => (x) => from + (x - low) / (high - low || 1) * (to - from);

function ticks(low, high, most = 6) {
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power, found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

// The last index i with sorted[i] < x, or 0.
function before(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] < x) low = middle + 1; else high = middle; }
  return Math.max(0, low - 1);
}

// A box of text (and pictures) at the pointer that never leaves its picture.
function tooltip(root) {
  const box = make("div", { class: "vspcn-tip", role: "tooltip" });
  box.style.display = "none";
  root.append(box);
  return {
    show(x, y, ...inside) {
      box.replaceChildren(...inside);
      box.style.display = "block";
      const w = box.offsetWidth, h = box.offsetHeight;
      box.style.left = `${clamp(x + 14 + w > root.clientWidth ? x - w - 14 : x + 14, 0, Math.max(0, root.clientWidth - w))}px`;
      box.style.top = `${clamp(y + 14 + h > root.clientHeight ? y - h - 14 : y + 14, 0, Math.max(0, root.clientHeight - h))}px`;
    },
    hide() { box.style.display = "none"; },
  };
}

const lines = (...texts) => texts.flatMap((t, i) => i ? [make("br"), t] : [t]);

function listen(model, names, act) {
  for (const name of names) model.on(`change:${name}`, act);
  return () => { for (const name of names) model.off(`change:${name}`, act); };
}

function choose(model, values) { for (const [k, v] of Object.entries(values)) model.set(k, v); model.save_changes(); }

// Anything with role=button answers to Enter and Space as to a click.
const pressable = (label, act, more = {}) => make("span", { role: "button", tabindex: 0, "aria-label": label, ...more,
  onclick: act, onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); act(e); } e.stopPropagation(); } });

async function bitmap(view, kind = "image/jpeg") {
  return view && view.byteLength ? createImageBitmap(new Blob([view], { type: kind })) : null;
}

// A canvas of `size` CSS pixels, sharp on screens of any density.
function sharp(width, height, more = {}) {
  const ratio = window.devicePixelRatio || 1;
  const c = make("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio), ...more });
  c.style.width = `${width}px`; c.style.height = `${height}px`;
  c.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  return c;
}

// The grey copy of an image and a map [side*side] over it, 0..top of the palette.
function paint(canvas, image, map, side, top, palette, strength = 0.6) {
  const c = canvas.getContext("2d"), w = parseFloat(canvas.style.width), h = parseFloat(canvas.style.height);
  c.clearRect(0, 0, w, h);
  if (image) { c.filter = "grayscale(1)"; c.drawImage(image, 0, 0, w, h); c.filter = "none"; }
  if (!map) return;
  const small = new OffscreenCanvas(side, side), s = small.getContext("2d"), pixels = s.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const p = 3 * clamp(Math.round(255 * map[i] / (top || 1)), 0, 255);
    pixels.data.set([palette[p], palette[p + 1], palette[p + 2], 255], 4 * i);
  }
  s.putImageData(pixels, 0, 0);
  c.globalAlpha = image ? strength : 1;
  c.imageSmoothingEnabled = true; c.imageSmoothingQuality = "high";
  c.drawImage(small, 0, 0, w, h);
  c.globalAlpha = 1;
}

function tile(atlas, i, size, columns, shown) {
  const c = sharp(shown, shown);
  if (atlas) c.getContext("2d").drawImage(atlas, (i % columns) * size, Math.floor(i / columns) * size, size, size, 0, 0, shown, shown);
  return c;
}
