"""Photos to a memory-mapped uint8 cache, decoded once, and batches augmented on the training device."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from vspcn_lib.system.digests import file_digests
from vspcn_lib.system.files import exclusive
from vspcn_lib.system.text import shown

MAX_PIXELS = 100_000_000  # read from the header, before decoding: a small file can claim gigabytes
CACHE_FORMAT = "2"  # part of the cache key; raise it when `decode` changes


class ImageError(ValueError):
    """An image or the image cache cannot be used; the message names the file and what to do."""


def cache_dir() -> Path:
    """$VSPCN_CACHE, else ~/.cache/vspcn. Raises `ImageError` for a user without a home folder."""
    try:
        return Path(os.environ.get("VSPCN_CACHE") or Path.home() / ".cache" / "vspcn").expanduser()
    except RuntimeError as error:  # no HOME, and nobody in the list of users either
        raise ImageError("this user has no home folder to keep caches in: set VSPCN_CACHE to a folder, or HOME"
                         ) from error


@dataclass(frozen=True)
class Normalise:
    """Channel means and standard deviations (pixel values in 0..1) that a set of weights expects."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in 0..1 to the weights' own scale."""
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std


def decode(path: Path, size: int) -> np.ndarray:
    """One image file as uint8 RGB [3,size,size]: turned as EXIF says, shorter side to `size`, centre crop.

    Grey, CMYK, palette, transparent and 16-bit files become plain RGB. Raises `ImageError` for a file that is
    missing, empty, truncated, no image, of 32-bit or floating-point numbers, or larger than 100 megapixels.
    """
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(f"{shown(path)} is empty: restore it or take it out of the split")
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore")  # what is wrong with a file is an error below, or harmless
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(f"{shown(path)} claims {opened.width} x {opened.height} pixels, more than "
                                 f"{MAX_PIXELS:,}: scale it down or take it out of the split")
            opened.draft("RGB", (2 * size, 2 * size))  # JPEG only: decode at a fraction of the side
            image = ImageOps.exif_transpose(opened)
            # 16-bit grey, for which some versions of Pillow have I: its convert would clip at 255.
            if image.mode.startswith("I;16") or (image.mode == "I" and opened.format in ("PNG", "PPM")):
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            elif image.mode in ("I", "F"):
                kind = "floating-point" if image.mode == "F" else "32-bit"
                raise ImageError(f"{shown(path)} holds {kind} numbers, of which nothing says what is white: save it "
                                 "with 8 or 16 bits a channel")
            elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB")
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{shown(path)} does not exist: check the dataset folder") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown(path)} is absurdly large ({shown(error)}): scale it down or take it out of the "
                         "split") from error
    except Exception as error:  # Pillow's plugins fail in every way: OSError, struct.error, TypeError, ...
        raise ImageError(f"{shown(path)} cannot be decoded ({shown(error)}): restore it or take it out of the "
                         "split") from error
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def image_digests(paths: Sequence[Path], *, root: Path | None = None, progress: bool = True) -> list[str]:
    """The hex sha256 of every image file, each read once and then known by its time stamps; raises `ImageError`."""
    folder = (root or cache_dir()) / "images"
    try:
        return file_digests(paths, folder / "digests", progress)
    except OSError as error:
        if error.filename not in map(os.path.abspath, paths):
            raise ImageError(_unwritable(folder, error)) from error
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ImageError(f"{shown(error.filename)} {why}: check the dataset folder") from error


def image_cache(paths: Sequence[Path], size: int, *, root: Path | None = None, progress: bool = True) -> np.ndarray:
    """The images as a read-only memory map uint8 [n,3,size,size], decoded on first use only.

    The key covers size, format version and what is in each file, so a changed file is decoded anew, and a moved or
    copied folder is not. All bad files are reported in one `ImageError`, and nothing half-written is left.
    """
    folder, digests = (root or cache_dir()) / "images", image_digests(paths, root=root, progress=progress)
    key = hashlib.sha256("\n".join([f"{CACHE_FORMAT} {size}", *digests]).encode())
    target = folder / f"{key.hexdigest()[:32]}.npy"
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / "lock", wait=True):  # a second process waits and finds the work done
                for stale in folder.glob("*.partial.npy"):  # nobody else is building: of a process that was killed
                    stale.unlink()
                if not target.exists():
                    _build(paths, size, target, progress)
        except OSError as error:
            raise ImageError(_unwritable(target, error)) from error
    try:
        pixels = np.load(target, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"the image cache {target} is damaged ({error}): delete it, it is made anew") from error
    if pixels.shape != (len(paths), 3, size, size) or pixels.dtype != np.uint8:
        raise ImageError(f"the image cache {target} holds {pixels.dtype} {pixels.shape}: delete it, it is made anew")
    return pixels


def _unwritable(cache: Path, error: OSError) -> str:
    return (f"could not write the image cache {cache} ({error.strerror or error}): free some space, make it writable, "
            "or point VSPCN_CACHE to another disk")


def _build(paths: Sequence[Path], size: int, target: Path, progress: bool) -> None:
    partial = target.with_name(f"{target.stem}.{os.getpid()}.partial.npy")
    bad: list[str] = []

    def attempt(path: Path) -> np.ndarray | None:
        try:
            return decode(path, size)
        except ImageError as error:
            bad.append(str(error))
            return None

    try:
        shape = (len(paths), 3, size, size)
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a crash inside the memory map
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(partial))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
            decoded = tqdm(pool.map(attempt, paths), f"decoding to {size} px", len(paths), disable=not progress)
            for i, pixels in enumerate(decoded):
                if pixels is not None:
                    out[i] = pixels
        out.flush()  # on the disk before it gets its name
        if bad:
            raise ImageError(f"{len(bad)} of {len(paths)} images cannot be used:\n  " + "\n  ".join(bad[:5]))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


Order = Callable[[np.random.Generator], list[np.ndarray]]


def shuffled(n: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows 0..n-1 in random order, `size` a batch, the last batch with what is left."""
    rows = rng.permutation(n)
    return [rows[i:i + size] for i in range(0, n, size)]


def epoch_rows(order: Order | None, n: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows 0..n-1 of each batch of an epoch: by `order`, drawn by (seed, epoch), or one after the other."""
    if order is not None:
        return order(np.random.default_rng([seed, epoch]))
    return [np.arange(i, min(n, i + size)) for i in range(0, n, size)]


class Batches:
    """Batches of cached images, normalised; in the `order` of each epoch, with `augment` cropped, flipped and jittered.

    Everything random is fixed by (seed, epoch, batch), so an interrupted epoch continues exactly.
    """

    scale, jitter = (0.6, 1.0), 0.2  # share of the area that a crop keeps; how far colours move

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray, batch_size: int, *,
                 normalise: Normalise, device: torch.device | str, augment: bool = False,
                 order: Order | None = None, seed: int = 0, own: Callable[[int], np.ndarray] | None = None) -> None:
        self.pixels, self.labels, self.indices, self.batch_size = pixels, labels, indices, batch_size
        self.size, self.normalise, self.device = pixels.shape[-1], normalise, torch.device(device)
        self.augment, self.order, self.seed, self.own = augment, order, seed, own or np.arange
        self._length = len(epoch_rows(order, len(indices), batch_size, seed, 0))

    def __len__(self) -> int:
        return self._length

    def epoch(self, e: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Images [B,3,size,size], labels [B], indices [B] of epoch `e`, from batch `start` on.

        Of the images only the rows `own(B)`, where several processes share a batch.
        """
        rows = epoch_rows(self.order, len(self.indices), self.batch_size, self.seed, e)
        parts = [self.indices[chosen] for chosen in rows[start:]]
        for b, (chosen, raw) in enumerate(zip(parts, self._ahead(parts), strict=True), start):
            images = raw.to(self.device, non_blocking=True).float() / 255
            if self.augment:
                images = self._augment(images, np.random.default_rng([self.seed, e, b]), len(chosen))
            yield self.normalise(images), torch.as_tensor(self.labels[chosen], device=self.device), chosen

    def _read(self, chosen: np.ndarray) -> Tensor:
        raw = torch.from_numpy(np.ascontiguousarray(self.pixels[chosen[self.own(len(chosen))]]))
        return raw.pin_memory() if self.device.type == "cuda" else raw

    def _ahead(self, parts: list[np.ndarray]) -> Iterator[Tensor]:
        """Raw images by part; on CUDA the next part is read and pinned while the device works on this one."""
        if self.device.type != "cuda":
            yield from map(self._read, parts)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read, parts[0]) if parts else None
            for following in [*parts[1:], None]:
                if waiting is not None:
                    raw = waiting.result()
                    waiting = pool.submit(self._read, following) if following is not None else None
                    yield raw

    def _augment(self, images: Tensor, rng: np.random.Generator, n: int) -> Tensor:
        """Random resized crop, flip, then brightness, contrast and saturation; images [B,3,H,W] in 0..1.

        They are the rows `own(n)` of a batch of `n`, and get the numbers drawn for their row.
        """
        own = self.own(n)
        area, ratio = rng.uniform(*self.scale, n), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n))
        width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
        theta = np.zeros((n, 2, 3))
        theta[:, 0, 0], theta[:, 1, 1] = width * rng.choice([-1, 1], n), height
        theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * rng.uniform(-1, 1, n), (1 - height) * rng.uniform(-1, 1, n)
        grid = F.affine_grid(torch.as_tensor(theta[own], dtype=images.dtype, device=images.device),
                             (len(own), 3, self.size, self.size), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        factors = rng.uniform(1 - self.jitter, 1 + self.jitter, (3, n, 1, 1, 1))[:, own]
        factors = torch.as_tensor(factors, dtype=images.dtype, device=images.device)
        images = images * factors[0]
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (images - mean) * factors[1] + mean
        grey = images.mean(1, keepdim=True)
        return ((images - grey) * factors[2] + grey).clamp(0, 1)
