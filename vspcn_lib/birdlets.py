"""birdlets: a small GZSL benchmark of drawn birds, whose attributes follow CUB's groups. Same seed, same pixels."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

COLOURS = {"black": (45, 44, 52), "white": (240, 238, 230), "grey": (140, 146, 155), "brown": (134, 92, 60),
           "red": (200, 62, 52), "blue": (62, 112, 190), "yellow": (236, 196, 64), "orange": (232, 134, 48)}
_PART = ("black", "white", "grey", "brown", "red", "blue", "yellow")
GROUPS: dict[str, tuple[str, ...]] = {
    **{f"has_{part}_color": _PART for part in ("crown", "breast", "belly", "back", "wing", "tail")},
    "has_bill_shape": ("cone", "dagger", "hooked", "needle"), "has_bill_length": ("short", "long"),
    "has_bill_color": ("black", "orange", "grey"), "has_tail_shape": ("forked", "rounded", "pointed", "square"),
    "has_breast_pattern": ("solid", "striped", "spotted"), "has_wing_pattern": ("solid", "striped", "spotted"),
    "has_head": ("crested", "smooth"), "has_eye_ring": ("white", "yellow", "none"),
    "has_leg_color": ("black", "orange", "grey"), "has_leg_length": ("short", "long"),
    "has_size": ("small", "medium", "large"),
}
ATTRIBUTES = tuple(f"{group}::{value}" for group, values in GROUPS.items() for value in values)
_KINDS = ("Finch", "Warbler", "Thrush", "Tern", "Wren", "Jay", "Bunting", "Plover", "Swift", "Vireo")
Bird = dict[str, str]


def build_birdlets(folder: Path, *, species: int = 40, images_per_species: int = 30, size: int = 128, seed: int = 0,
                   progress: bool = True) -> Path:
    """Render the folder benchmark (images/, attributes.csv, splits.json) into `folder`; a finished one is kept.

    30 % of the species are unseen; 20 % of a seen species' images are test_seen. A class's prototype is the
    measured frequency of each attribute over its images, as in CUB. `size` in pixels.
    """
    if (folder / "splits.json").exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    flock = make_species(species, seed)
    names = list(flock)
    rng = np.random.default_rng([seed, 1])
    # One or two of each family of four are unseen, so that an unseen bird has seen relatives.
    unseen = {n for n, _ in sorted(zip(names, rng.random(species) + np.arange(species) % 10 * 1e-9, strict=True),
                                   key=lambda pair: pair[1])[:round(0.3 * species)]}
    rows, splits = [], {"trainval": [], "test_seen": [], "test_unseen": []}
    for s, name in enumerate(tqdm(names, "rendering birdlets", disable=not progress)):
        (partial / "images" / name).mkdir(parents=True)
        counts = np.zeros(len(ATTRIBUTES))
        cut = round(0.8 * images_per_species)
        for i in range(images_per_species):
            individual = vary(flock[name], np.random.default_rng([seed, 2, s, i]))
            render(individual, size, np.random.default_rng([seed, 3, s, i])).save(
                partial / "images" / name / f"{i:02d}.png", compress_level=1)
            counts += [individual[a.split("::")[0]] == a.split("::")[1] for a in ATTRIBUTES]
            part = "test_unseen" if name in unseen else "trainval" if i < cut else "test_seen"
            splits[part].append(f"{name}/{i:02d}.png")
        rows.append([name, *(f"{v:.4f}" for v in counts / images_per_species)])
    with (partial / "attributes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["class", *ATTRIBUTES], *rows])
    seen = [n for n in names if n not in unseen]
    val = sorted(rng.choice(seen, max(1, round(0.3 * len(seen))), replace=False).tolist())
    (partial / "splits.json").write_text(json.dumps({**splits, "val_classes": val}))
    shutil.rmtree(folder, ignore_errors=True)  # only ever a folder without splits.json, so unfinished
    os.replace(partial, folder)
    return folder


def make_species(count: int, seed: int) -> dict[str, Bird]:
    """`count` species by name, in families of four that share most attributes; every value occurs somewhere."""
    rng = np.random.default_rng([seed, 0])
    flock: dict[str, Bird] = {}
    for s in range(count):
        if s % 4 == 0:
            # Each family starts from another value of each group, so that all values are spread evenly.
            template = {g: v[int(o + s // 4) % len(v)] for (g, v), o in
                        zip(GROUPS.items(), np.random.default_rng([seed, 9]).integers(0, 12, len(GROUPS)), strict=True)}
        bird = dict(template)
        for group in rng.choice(list(GROUPS), 6, replace=False):
            bird[group] = str(rng.choice(GROUPS[group]))
        kind = _KINDS[s // 4 % len(_KINDS)]
        options = [f"{bird[f'has_{p}_color']}_{w}".capitalize() + f"_{kind}" for p, w in
                   (("crown", "crowned"), ("breast", "breasted"), ("wing", "winged"), ("tail", "tailed"),
                    ("belly", "bellied"), ("back", "backed"))]
        free = [o for o in options if o not in flock]
        flock[free[0] if free else f"{options[0]}_{s}"] = bird
    return flock


def vary(bird: Bird, rng: np.random.Generator) -> Bird:
    """An individual: each attribute group differs from the species' with probability 0.06."""
    return {g: str(rng.choice(GROUPS[g])) if rng.random() < 0.06 else v for g, v in bird.items()}


def render(bird: Bird, size: int, rng: np.random.Generator) -> Image.Image:
    """One bird as an RGB image of `size` px; `rng` decides pose, scale, light, clutter and occlusion."""
    side = 2 * size  # drawn at twice the size: smooth edges
    picture = _background(side, rng)
    unit = side * {"small": 0.185, "medium": 0.225, "large": 0.265}[bird["has_size"]] * rng.uniform(0.85, 1.1)
    x, y = side * rng.uniform(0.42, 0.56), side * rng.uniform(0.46, 0.58)
    leg = unit * (0.35 if bird["has_leg_length"] == "short" else 0.7)
    _branch(picture, side, y + 0.66 * unit + leg, rng)
    layer = _bird(bird, side, x, y, unit, leg, rng)
    layer = layer.rotate(rng.uniform(-14, 14), Image.Resampling.BICUBIC, center=(x, y + unit))
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.paste(layer, (0, 0), layer)
    if rng.random() < 0.45:
        _leaves(picture, side, int(rng.integers(2, 6)), rng)
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    light = rng.uniform(0.7, 1.2) * (1 + rng.uniform(-0.1, 0.1) * np.array([1.0, 0.0, -1.0]))
    pixels = np.asarray(picture, dtype=np.float32) * light + rng.normal(0, 4, (size, size, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shade(colour: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(int(min(255, c * factor)) for c in colour[:3])


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    top, low = [((190, 214, 232), (226, 232, 220)), ((176, 200, 150), (110, 140, 92)),
                ((206, 196, 168), (150, 134, 104)), ((160, 196, 204), (96, 140, 156)),
                ((214, 206, 214), (168, 160, 150))][rng.integers(5)]
    ramp = np.linspace(0, 1, side)[:, None, None]
    image = Image.fromarray(np.broadcast_to((1 - ramp) * top + ramp * low, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(8, 22)):
        cx, cy, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.03, 0.16) * side
        colour = _shade(COLOURS[str(rng.choice(_PART))] if rng.random() < 0.3 else (top if rng.random() < 0.5 else low),
                        rng.uniform(0.7, 1.15))
        draw.ellipse((cx - r, cy - r * rng.uniform(0.5, 1), cx + r, cy + r), fill=colour)
    small = image.resize((side // 8, side // 8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _branch(image: Image.Image, side: int, y: float, rng: np.random.Generator) -> None:
    draw, tilt, wide = ImageDraw.Draw(image), rng.uniform(-0.06, 0.06) * side, rng.uniform(0.025, 0.045) * side
    brown = _shade((104, 78, 56), rng.uniform(0.75, 1.2))
    draw.line((0, y + tilt, side, y - tilt), fill=brown, width=int(wide))
    draw.line((0, y + tilt - wide * 0.3, side, y - tilt - wide * 0.3), fill=_shade(brown, 1.25), width=int(wide * 0.2))
    for _ in range(rng.integers(0, 4)):
        at = rng.uniform(0, side)
        draw.line((at, y, at + rng.uniform(-0.2, 0.2) * side, y + rng.choice([-1, 1]) * rng.uniform(0.1, 0.3) * side),
                  fill=_shade(brown, 0.9), width=int(wide * 0.4))


def _leaves(image: Image.Image, side: int, count: int, rng: np.random.Generator) -> None:
    for _ in range(count):
        length = int(rng.uniform(0.12, 0.26) * side)
        leaf = Image.new("RGBA", (length, length), (0, 0, 0, 0))
        green = _shade((96, 140, 66), rng.uniform(0.7, 1.3))
        draw = ImageDraw.Draw(leaf)
        draw.ellipse((0, length * 0.3, length - 1, length * 0.7), fill=green)
        draw.line((0, length / 2, length, length / 2), fill=_shade(green, 0.8), width=2)
        leaf = leaf.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC)
        image.paste(leaf, (int(rng.uniform(-0.1, 0.95) * side), int(rng.uniform(-0.1, 0.95) * side)), leaf)


def _bird(bird: Bird, side: int, x: float, y: float, u: float, leg: float, rng: np.random.Generator) -> Image.Image:
    """The bird on a transparent layer, facing right; `u` is half its body's length in pixels."""
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    colour = {g: _shade(COLOURS[v], rng.uniform(0.88, 1.1)) for g, v in bird.items() if v in COLOURS}

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + px * u, y + py * u) for px, py in points]

    def oval(cx: float, cy: float, rx: float, ry: float) -> list[tuple[float, float]]:
        return at((cx - rx, cy - ry), (cx + rx, cy + ry))

    def clipped(shape: list[tuple[float, float]], paint, inside: Image.Image) -> None:
        """Paint inside an ellipse and inside the part it belongs to."""
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse(shape, fill=255)
        sheet = Image.new("RGBA", (side, side))
        paint(ImageDraw.Draw(sheet))
        layer.paste(sheet, (0, 0), ImageChops.multiply(ImageChops.multiply(mask, inside), sheet.getchannel("A")))

    for lx in (-0.1, 0.2):
        foot = at((lx, 0.6))[0]
        draw.line((*foot, foot[0] + 0.05 * u, y + 0.66 * u + leg), fill=colour["has_leg_color"],
                  width=int(0.07 * u) + 1)
    # Tail: four outlines behind the body.
    ends = {"forked": ((-2.0, 0.05), (-1.55, 0.42), (-1.9, 0.8)),
            "rounded": ((-1.75, 0.1), (-1.98, 0.42), (-1.7, 0.75)),
            "pointed": ((-1.5, 0.25), (-2.15, 0.62), (-1.45, 0.6)),
            "square": ((-1.8, 0.12), (-1.84, 0.4), (-1.75, 0.75))}
    tail = at((-0.6, -0.15), *ends[bird["has_tail_shape"]], (-0.55, 0.35))
    draw.polygon(tail, fill=colour["has_tail_color"])
    draw.line((*at((-0.6, 0.1))[0], *at(ends[bird["has_tail_shape"]][1])[0]),
              fill=_shade(colour["has_tail_color"], 0.75), width=2)
    # Body: back colour, then belly and breast clipped to it.
    body = Image.new("L", (side, side))
    ImageDraw.Draw(body).ellipse(oval(0, 0, 1.02, 0.7), fill=255)
    draw.ellipse(oval(0, 0, 1.02, 0.7), fill=colour["has_back_color"])
    clipped(oval(-0.1, 0.5, 0.95, 0.5), lambda d: d.rectangle((0, 0, side, side), fill=colour["has_belly_color"]), body)
    breast, mark = colour["has_breast_color"], _contrast(colour["has_breast_color"])
    chest = oval(0.72, 0.2, 0.5, 0.55)
    clipped(chest, lambda d: d.rectangle((0, 0, side, side), fill=breast), body)
    clipped(chest, lambda d: _pattern(d, bird["has_breast_pattern"], at((0.2, -0.4), (1.2, 0.8)), 0.16 * u, mark), body)
    # Head with crown, crest, eye and bill.
    hx, hy = 0.86 + rng.uniform(-0.06, 0.06), -0.62 + rng.uniform(-0.06, 0.06)
    crown = colour["has_crown_color"]
    if bird["has_head"] == "crested":
        draw.polygon(at((hx - 0.42, hy - 0.05), (hx - 0.75, hy - 0.75), (hx + 0.15, hy - 0.36)), fill=crown)
    _bill(draw, bird, at, hx, hy, colour["has_bill_color"])
    head = Image.new("L", (side, side))
    ImageDraw.Draw(head).ellipse(oval(hx, hy, 0.46, 0.43), fill=255)
    draw.ellipse(oval(hx, hy, 0.46, 0.43), fill=_shade(breast, 0.94))
    clipped(oval(hx - 0.08, hy - 0.32, 0.56, 0.36), lambda d: d.rectangle((0, 0, side, side), fill=crown), head)
    if bird["has_eye_ring"] != "none":
        draw.ellipse(oval(hx + 0.15, hy - 0.03, 0.14, 0.14), fill=colour["has_eye_ring"])
    draw.ellipse(oval(hx + 0.15, hy - 0.03, 0.085, 0.085), fill=(20, 18, 22))
    draw.ellipse(oval(hx + 0.18, hy - 0.06, 0.025, 0.025), fill=(250, 250, 250))
    # Wing with feather bars.
    wing, lift = colour["has_wing_color"], rng.uniform(-0.12, 0.1)
    feather = Image.new("L", (side, side))
    shape = at((0.5, -0.3), (0.1, -0.45 + lift), (-0.7, -0.1 + lift), (-1.3, 0.3 + lift), (-0.5, 0.35), (0.2, 0.3),
               (0.5, 0.0))
    ImageDraw.Draw(feather).polygon(shape, fill=255)
    feather = feather.filter(ImageFilter.GaussianBlur(0.05 * u)).point(lambda v: 255 if v > 128 else 0)
    layer.paste(Image.new("RGBA", layer.size, (*wing, 255)), (0, 0), feather)
    everywhere = oval(-0.4, 0, 1.4, 1.0)
    clipped(everywhere, lambda d: [d.line(at((0.45, -0.15 + k), (-1.2, 0.35 + k + lift)), width=2,
                                          fill=_shade(wing, 0.8)) for k in (-0.15, 0.0, 0.15)], feather)
    clipped(everywhere, lambda d: _pattern(d, bird["has_wing_pattern"], at((-1.1, -0.5), (0.5, 0.5)), 0.2 * u,
                                           _contrast(wing)), feather)
    # Soft light from above, inside the bird only.
    ramp = np.linspace(1.12, 0.78, side)[:, None, None]
    shaded = (np.asarray(layer.convert("RGB")) * ramp).clip(0, 255).astype(np.uint8)
    lit = Image.fromarray(shaded).convert("RGBA")
    lit.putalpha(layer.getchannel("A"))
    return lit


def _contrast(colour: tuple[int, ...]) -> tuple[int, ...]:
    return _shade(colour, 0.45) if sum(colour) > 300 else _shade((235, 230, 220), 1.0)


def _pattern(draw: ImageDraw.ImageDraw, kind: str, box: list[tuple[float, float]], step: float,
             colour: tuple[int, ...]) -> None:
    """Stripes or spots over `box`; nothing for solid."""
    (x0, y0), (x1, y1) = box
    if kind == "striped":
        for k in np.arange(x0, x1 + (y1 - y0), step * 1.3):
            draw.line((k, y0, k - (y1 - y0) * 0.35, y1), fill=colour, width=max(2, int(step * 0.38)))
    elif kind == "spotted":
        for row, cy in enumerate(np.arange(y0, y1, step)):
            for cx in np.arange(x0 + (row % 2) * step / 2, x1, step):
                draw.ellipse((cx - step * 0.22, cy - step * 0.22, cx + step * 0.22, cy + step * 0.22), fill=colour)


def _bill(draw: ImageDraw.ImageDraw, bird: Bird, at, hx: float, hy: float, colour: tuple[int, ...]) -> None:
    length = 0.42 if bird["has_bill_length"] == "short" else 0.8
    wide = {"cone": 0.22, "dagger": 0.14, "hooked": 0.17, "needle": 0.06}[bird["has_bill_shape"]]
    base, tip = hx + 0.36, hx + 0.36 + length
    outline = [(base, hy + 0.05 - wide), (tip, hy + 0.1), (base, hy + 0.05 + wide)]
    if bird["has_bill_shape"] == "hooked":
        outline = [(base, hy + 0.05 - wide), (tip - 0.08, hy - 0.04), (tip, hy + 0.12), (tip - 0.06, hy + 0.26),
                   (tip - 0.14, hy + 0.12), (base, hy + 0.05 + wide)]
    draw.polygon(at(*outline), fill=colour)
    draw.line(at((base, hy + 0.06), (tip - 0.1, hy + 0.1)), fill=_shade(colour, 0.7), width=2)


def contact_sheet(folder: Path, out: Path, columns: int = 8) -> Path:
    """One bird a species with its name, unseen species' names in orange, written to `out` as PNG."""
    unseen = {f.split("/")[0] for f in json.loads((folder / "splits.json").read_text())["test_unseen"]}
    names = sorted(p.name for p in (folder / "images").iterdir())
    cell, line = 128, 18
    height = math.ceil(len(names) / columns) * (cell + line + 6) + 6
    sheet = Image.new("RGB", (columns * (cell + 6) + 6, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for i, name in enumerate(names):
        x, y = 6 + i % columns * (cell + 6), 6 + i // columns * (cell + line + 6)
        with Image.open(folder / "images" / name / "01.png") as bird:
            sheet.paste(bird.resize((cell, cell)), (x, y))
        draw.text((x + 1, y + cell + 2), name.replace("_", " "), font=font,
                  fill=(200, 90, 20) if name in unseen else (50, 50, 50))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(192).save(out, optimize=True)
    return out
