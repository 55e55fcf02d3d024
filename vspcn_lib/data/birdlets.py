"""birdlets: a small GZSL benchmark of drawn birds with CUB's attribute groups. Same seed, same pixels."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from tqdm.auto import tqdm

from vspcn_lib.system.files import build_folder

COLOURS = {"black": (45, 44, 52), "white": (240, 238, 230), "grey": (140, 146, 155), "brown": (134, 92, 60),
           "red": (200, 62, 52), "blue": (62, 112, 190), "yellow": (236, 196, 64), "orange": (232, 134, 48),
           "green": (96, 146, 72)}
_PART = ("black", "white", "grey", "brown", "red", "blue", "yellow")
GROUPS: dict[str, tuple[str, ...]] = {
    **{f"has_{part}_color": _PART for part in ("crown", "belly", "tail")},
    "has_breast_color": (*_PART, "orange"), "has_tail_pattern": ("solid", "striped"),
    **{f"has_{part}_color": (*_PART, "green") for part in ("back", "wing")},
    "has_bill_shape": ("cone", "dagger", "hooked", "needle"), "has_bill_length": ("short", "long"),
    "has_bill_color": ("black", "orange", "grey"), "has_tail_shape": ("forked", "rounded", "pointed", "fan"),
    **{f"has_{part}_pattern": ("solid", "striped", "spotted") for part in ("breast", "belly", "wing")},
    "has_crest": ("crested", "smooth"), "has_eye_ring": ("white", "yellow", "none"),
    "has_leg_color": ("black", "orange", "grey"), "has_leg_length": ("short", "long"),
    "has_size": ("small", "medium", "large"),
}
ATTRIBUTES = tuple(f"{group}::{value}" for group, values in GROUPS.items() for value in values)
TAILS = {"forked": ((-2.1, -0.05), (-1.5, 0.4), (-1.95, 0.85)),
         "pointed": ((-1.4, 0.2), (-2.2, 0.6), (-1.4, 0.6)),
         "rounded": ((-1.6, 0.02), (-1.84, 0.14), (-1.95, 0.4), (-1.84, 0.64), (-1.6, 0.76)),
         "fan": ((-1.65, -0.45), (-1.86, -0.12), (-1.95, 0.3), (-1.86, 0.75), (-1.6, 1.05))}
BILLS = {"cone": 0.22, "dagger": 0.14, "hooked": 0.17, "needle": 0.06}  # half their width at the head
# Colour above, colour below, and how many leaves, blades, ripples, clouds or twigs.
SCENES = {"sky": ((170, 204, 232), (226, 232, 228), 9), "foliage": ((160, 188, 130), (92, 124, 78), 36),
          "grass": ((206, 204, 160), (132, 152, 84), 34), "water": ((166, 202, 210), (88, 136, 158), 20),
          "twigs": ((222, 204, 206), (150, 128, 118), 6)}
_KINDS = "Finchlet Warblet Thrushlet Ternlet Wrenlet Jaylet Buntlet Ploverlet Swiftlet Vireolet".split()
_FAMILY = 4  # species that share most attributes: what makes the benchmark fine-grained
_KEYS = ("trainval", "test_seen", "test_unseen", "val_classes")
Bird = dict[str, str]
Point = tuple[float, float]
Colour = tuple[int, ...]


class BirdletsError(RuntimeError):
    """The folder of birdlets cannot be used; the message names it and what to do."""


def build_birdlets(folder: Path, *, species: int = 40, images_per_species: int = 30, size: int = 128,
                   seed: int = 0, progress: bool = True) -> Path:
    """Render the folder benchmark (images, attributes, splits) into `folder`; a finished one is kept.

    30 % of the species are unseen; 20 % of a seen species' images are test_seen. A class's prototype is the
    measured frequency of each attribute over its images, as in CUB. `size` in pixels. Raises `BirdletsError` where the
    folder cannot be written or holds other files.
    """
    if _complete(folder):
        return folder
    try:
        if folder.exists() and any(folder.iterdir()):  # builds arrive by rename: not ours
            raise BirdletsError(f"{folder} has files but no complete splits.json: empty it or choose another place")
        build_folder(folder, _complete, lambda new: _write(new, species, images_per_species, size, seed, progress))
    except OSError as error:
        raise BirdletsError(f"could not draw birdlets into {folder} ({error.strerror or error}): free some space, make "
                            "it writable, or point VSPCN_CACHE to another disk") from error
    return folder


def _complete(folder: Path) -> bool:
    try:
        return set(_KEYS) <= set(json.loads((folder / "splits.json").read_text()))
    except (OSError, ValueError):
        return False


def _write(folder: Path, species: int, images_per_species: int, size: int, seed: int, progress: bool) -> None:
    flock, unseen = make_species(species, seed)
    rows, splits, train = [], {key: [] for key in _KEYS}, round(0.8 * images_per_species)
    for s, (name, bird) in enumerate(tqdm(flock.items(), "rendering birdlets", disable=not progress)):
        (folder / "images" / name).mkdir(parents=True)
        counts = np.zeros(len(ATTRIBUTES))
        for i in range(images_per_species):
            individual = vary(bird, np.random.default_rng([seed, 2, s, i]))
            render(individual, size, np.random.default_rng([seed, 3, s, i])).save(
                folder / "images" / name / f"{i:02d}.png", compress_level=1)
            counts += [individual[a.split("::")[0]] == a.split("::")[1] for a in ATTRIBUTES]
            part = "test_unseen" if name in unseen else "trainval" if i < train else "test_seen"
            splits[part].append(f"{name}/{i:02d}.png")
        rows.append([name, *(f"{v:.4f}" for v in counts / images_per_species)])
    with (folder / "attributes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["class", *ATTRIBUTES], *rows])
    seen = np.random.default_rng([seed, 1]).permutation([n for n in flock if n not in unseen]).tolist()
    splits["val_classes"] = sorted(seen[:max(1, round(0.3 * len(seen)))])
    (folder / "splits.json").write_text(json.dumps(splits))


def make_species(count: int, seed: int) -> tuple[dict[str, Bird], set[str]]:
    """`count` species by name, in families that share most attributes, and the names of the unseen 30 %.

    Wherever the number of species allows it, every value of every group occurs in two seen species or more.
    """
    rng = np.random.default_rng([seed, 0])
    birds: list[Bird] = []
    starts = dict(zip(GROUPS, rng.integers(0, 24, len(GROUPS)), strict=True))
    for s in range(count):
        # Each family starts from another value of each group, so that all values are spread evenly.
        bird = {g: v[int(starts[g] + s // _FAMILY) % len(v)] for g, v in GROUPS.items()}
        for group in rng.choice(list(GROUPS), 7, replace=False):
            bird[group] = str(rng.choice(GROUPS[group]))
        birds.append(bird)
    # Rank within the family first: one or two of each are unseen, so an unseen bird has seen relatives.
    rank = np.concatenate([rng.permutation(_FAMILY) for _ in range(0, count, _FAMILY)])[:count]
    unseen = {int(s) for s in np.argsort(rank + rng.random(count))[:round(0.3 * count)]}
    seen = [birds[s] for s in rng.permutation(count) if s not in unseen]
    for group, values in GROUPS.items():
        for value in values:
            while (tally := Counter(b[group] for b in seen))[value] < 2 and max(tally.values()) > 2:
                next(b for b in seen if b[group] == tally.most_common(1)[0][0])[group] = value
    names: list[str] = []
    for s, bird in enumerate(birds):
        kinds = np.roll(_KINDS, -(s // _FAMILY))  # the family's own kind first
        options = (f"{bird[f'has_{part}_color']}_{part}ed".capitalize() + f"_{kind}" for kind in kinds
                   for part in ("crown", "breast", "wing", "tail"))
        names.append(next((o for o in options if o not in names), f"Nameless_Birdlet_{s}"))
    return dict(zip(names, birds, strict=True)), {names[s] for s in unseen}


def vary(bird: Bird, rng: np.random.Generator) -> Bird:
    """An individual: each attribute group differs from the species' with probability 0.08."""
    return {g: str(rng.choice([o for o in GROUPS[g] if o != v])) if rng.random() < 0.08 else v
            for g, v in bird.items()}


def render(bird: Bird, size: int, rng: np.random.Generator) -> Image.Image:
    """One bird as an RGB image of `size` px; `rng` decides pose, scale, light, clutter and occlusion."""
    side = 2 * size  # drawn at twice the size: smooth edges
    unit = side * {"small": 0.185, "medium": 0.225, "large": 0.265}[bird["has_size"]] * rng.uniform(0.85, 1.1)
    x, y = side * rng.uniform(0.42, 0.56), side * rng.uniform(0.46, 0.58)
    leg = unit * (0.35 if bird["has_leg_length"] == "short" else 0.7)
    picture = _background(side, y + 0.66 * unit + leg, rng)
    layer = _bird(bird, side, x, y, unit, leg, rng)
    layer = layer.rotate(rng.uniform(-14, 14), Image.Resampling.BILINEAR, center=(x, y + unit))
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.paste(layer, (0, 0), layer)
    for _ in range(rng.integers(2, 6) if rng.random() < 0.45 else 0):
        length, green = int(rng.uniform(0.12, 0.26) * side), _shade((96, 140, 66), rng.uniform(0.7, 1.3))
        leaf = Image.new("RGBA", (length, length), (*green, 0))
        draw = ImageDraw.Draw(leaf)
        draw.ellipse((0, length * 0.3, length - 1, length * 0.7), fill=green)
        draw.line((0, length / 2, length, length / 2), fill=_shade(green, 0.8), width=2)
        leaf = leaf.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
        picture.paste(leaf, tuple(int(c) for c in rng.uniform(-0.1, 0.95, 2) * side), leaf)
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    light = rng.uniform(0.7, 1.2) * np.float32(1 + rng.uniform(-0.1, 0.1) * np.array([1.0, 0.0, -1.0]))
    pixels = np.asarray(picture, np.float32) * light + 4 * rng.standard_normal((size, size, 1), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(min(255, c * factor)) for c in colour[:3])


def _background(side: int, y: float, rng: np.random.Generator) -> Image.Image:
    """Scenery, painted at a quarter of the side as it is out of focus, and a branch at height `y`."""
    scene, n = str(rng.choice(list(SCENES))), side // 4
    (top, low, count), ramp = SCENES[scene], np.linspace(0, 1, n)[:, None, None]
    image = Image.fromarray(np.broadcast_to((1 - ramp) * top + ramp * low, (n, n, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(8, 20)):  # some in plumage colours, so that colour alone is no cue
        cx, cy, r = rng.uniform(0, n), rng.uniform(0, n), rng.uniform(0.03, 0.15) * n
        base = COLOURS[str(rng.choice(_PART))] if rng.random() < 0.25 else top if rng.random() < 0.5 else low
        fill = _shade(base, rng.uniform(0.75, 1.12))
        draw.ellipse((cx - r, cy - r * rng.uniform(0.5, 1), cx + r, cy + r), fill=fill)
    for _ in range(count):
        cx, cy, r = rng.uniform(0, n), rng.uniform(0, n), rng.uniform(0.05, 0.14) * n
        tone, lean = _shade(low, rng.uniform(0.72, 1.25)), rng.uniform(-0.2, 0.2) * n
        if scene in ("grass", "twigs"):
            draw.line((cx, n, cx + lean, cy if scene == "grass" else 0), fill=tone, width=2)
        else:
            draw.ellipse((cx - r, cy, cx + r, cy + r * (0.2 if scene == "water" else 0.9)), fill=tone)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 2.0))).resize((side, side))
    draw = ImageDraw.Draw(image)
    tilt, wide = rng.uniform(-0.06, 0.06) * side, rng.uniform(0.025, 0.045) * side
    brown = _shade((104, 78, 56), rng.uniform(0.75, 1.2))
    for _ in range(rng.integers(0, 4)):
        at, end = rng.uniform(0, side), rng.choice([-1, 1]) * rng.uniform(0.1, 0.3) * side
        draw.line((at, y, at + rng.uniform(-0.2, 0.2) * side, y + end), fill=brown, width=int(wide * 0.4))
    draw.line((0, y + tilt, side, y - tilt), fill=brown, width=int(wide))
    y -= 0.3 * wide  # a lit edge
    draw.line((0, y + tilt, side, y - tilt), fill=_shade(brown, 1.25), width=int(wide * 0.2))
    return image


def _bird(bird: Bird, side: int, x: float, y: float, u: float, leg: float,
          rng: np.random.Generator) -> Image.Image:
    """The bird on a transparent layer, facing right; `u` is half its body's length in pixels."""
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    crown, breast, belly, back, wing, tail, bill, legs = (
        _shade(COLOURS[bird[f"has_{part}_color"]], rng.uniform(0.88, 1.1))
        for part in ("crown", "breast", "belly", "back", "wing", "tail", "bill", "leg"))

    def at(*points: Point) -> list[Point]:
        return [(x + px * u, y + py * u) for px, py in points]
    def oval(cx: float, cy: float, rx: float, ry: float) -> list[Point]:
        return at((cx - rx, cy - ry), (cx + rx, cy + ry))
    def stencil(shape: list[Point], inside: Image.Image | None = None) -> Image.Image:
        """A mask: an ellipse from its two corners or a polygon from more points, kept inside another mask."""
        mask = Image.new("L", (side, side))
        (ImageDraw.Draw(mask).ellipse if len(shape) == 2 else ImageDraw.Draw(mask).polygon)(shape, fill=255)
        return ImageChops.multiply(mask, inside) if inside else mask
    def fill(colour: Colour, mask: Image.Image, pattern: str = "solid", step: float = 0) -> None:
        """Colour a masked part, then lay stripes or spots over it in a contrasting tone."""
        box = mask.getbbox()
        mask, step = mask.crop(box), step * u
        layer.paste((*colour, 255), box, mask)
        (wide, high), marks = mask.size, Image.new("L", mask.size)
        pen = ImageDraw.Draw(marks)
        if pattern == "striped":
            for k in np.arange(0, wide + high, step * 1.3):
                pen.line((k, 0, k - high * 0.35, high), fill=255, width=max(2, int(step * 0.4)))
        elif pattern == "spotted":
            for row, cy in enumerate(np.arange(0, high, step)):
                for cx in np.arange(row % 2 * step / 2, wide, step):
                    pen.ellipse((cx - 0.22 * step, cy - 0.22 * step, cx + 0.22 * step, cy + 0.22 * step), 255)
        tone = _shade(colour, 0.45) if sum(colour) > 300 else (235, 230, 220)
        layer.paste((*tone, 255), box, ImageChops.multiply(marks, mask))
    for lx in (-0.1, 0.2):
        draw.line(at((lx, 0.6), (lx + 0.05, 0.66 + leg / u)), fill=legs, width=int(0.07 * u) + 1)
    plume = at((-0.6, -0.15), *TAILS[bird["has_tail_shape"]], (-0.55, 0.35))
    fill(tail, stencil(plume), bird["has_tail_pattern"], 0.22)
    body = stencil(oval(0, 0, 1.02, 0.7))
    fill(back, body)
    fill(belly, stencil(oval(-0.1, 0.5, 0.95, 0.5), body), bird["has_belly_pattern"], 0.17)
    fill(breast, stencil(oval(0.72, 0.2, 0.5, 0.55), body), bird["has_breast_pattern"], 0.16)
    lift = rng.uniform(-0.12, 0.1)
    outline = ((0.5, -0.3), (0.1, -0.45 + lift), (-0.7, -0.1 + lift), (-1.3, 0.3 + lift), (-0.5, 0.35))
    feather = stencil(at(*outline, (0.2, 0.3), (0.5, 0.0)))
    feather = feather.filter(ImageFilter.GaussianBlur(0.05 * u)).point(lambda v: 255 if v > 128 else 0)
    fill(wing, feather, bird["has_wing_pattern"], 0.2)
    for k in (-0.15, 0.0, 0.15):  # feather bars
        draw.line(at((0.4, -0.13 + k), (-0.72, 0.2 + 0.7 * k + lift)), fill=_shade(wing, 0.78), width=2)
    # The head comes after the wing, as one bird in four looks back over its shoulder.
    turn = -1 if rng.random() < 0.25 else 1
    hx, hy = 0.78 + 0.08 * turn + rng.uniform(-0.06, 0.06), -0.62 + rng.uniform(-0.06, 0.06)

    def on_head(*points: Point) -> list[Point]:
        return at(*((hx + turn * px, hy + py) for px, py in points))

    if bird["has_crest"] == "crested":
        draw.polygon(on_head((-0.42, -0.05), (-0.75, -0.78), (-0.3, -0.6), (0.15, -0.36)), fill=crown)
    wide, tip = BILLS[bird["has_bill_shape"]], 0.78 if bird["has_bill_length"] == "short" else 1.16
    hook = ((tip - 0.08, -0.04), (tip, 0.12), (tip - 0.06, 0.26), (tip - 0.14, 0.12))
    point = hook if bird["has_bill_shape"] == "hooked" else ((tip, 0.1),)
    draw.polygon(on_head((0.36, 0.05 - wide), *point, (0.36, 0.05 + wide)), fill=bill)
    draw.line(on_head((0.36, 0.06), (tip - 0.1, 0.1)), fill=_shade(bill, 0.7), width=2)
    head = stencil(oval(hx, hy, 0.46, 0.43))
    fill(_shade(breast, 0.94), head)
    fill(crown, stencil(oval(hx - 0.08 * turn, hy - 0.32, 0.56, 0.36), head))
    ex, ey = hx + 0.15 * turn, hy - 0.03
    if bird["has_eye_ring"] != "none":
        draw.ellipse(oval(ex, ey, 0.15, 0.15), fill=COLOURS[bird["has_eye_ring"]])
    draw.ellipse(oval(ex, ey, 0.09, 0.09), fill=(20, 18, 22))
    draw.ellipse(oval(ex + 0.03, ey - 0.035, 0.028, 0.028), fill=(250, 250, 250))
    # Soft light from above right, falling off over the rounded body, inside the bird only.
    rows, columns = np.ogrid[:side, :side]
    far = ((columns - x - 0.35 * u) ** 2 + 1.6 * (rows - y + 0.55 * u) ** 2) / (1.5 * u) ** 2
    pixels = np.array(layer)
    light = 1.16 - 0.3 * np.minimum(far, 1.4).astype(np.float32)[..., None]
    pixels[..., :3] = np.minimum(pixels[..., :3] * light, 255)
    return Image.fromarray(pixels)


def contact_sheet(folder: Path, out: Path, columns: int = 10) -> Path:
    """One bird a species with its name, unseen species' names in orange, written to `out` as PNG.

    Colours are reduced to a palette, which keeps the sheet of 40 species below 600 KB.
    """
    unseen = {f.split("/")[0] for f in json.loads((folder / "splits.json").read_text())["test_unseen"]}
    names, cell, line = sorted(p.name for p in (folder / "images").iterdir()), 116, 22
    size = (columns * (cell + 6) + 6, math.ceil(len(names) / columns) * (cell + line) + 6)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for i, name in enumerate(names):
        x, y = 6 + i % columns * (cell + 6), 6 + i // columns * (cell + line)
        with Image.open(min((folder / "images" / name).glob("*.png"))) as bird:
            sheet.paste(bird.resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        draw.text((x + cell / 2, y + cell + 3), name.replace("_", " "), font=font, anchor="ma",
                  fill=(200, 90, 20) if name in unseen else (50, 50, 50))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(160).save(out, optimize=True)
    return out
