"""What both phases of a run share: benchmark, cached pixels, word vectors, the frozen ViT and the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor
from tqdm.auto import tqdm

from vspcn_lib.config import Config
from vspcn_lib.data.images import Batches, Order, epoch_rows, image_cache
from vspcn_lib.data.photos import compare_photos, photo_identity
from vspcn_lib.data.splits import Benchmark
from vspcn_lib.encoders.architectures import inspect
from vspcn_lib.encoders.backbone import FrozenViT, load_backbone
from vspcn_lib.encoders.semantics import check_source
from vspcn_lib.methods.registry import build, method
from vspcn_lib.runs.folder import together
from vspcn_lib.runs.identity import identity, open_benchmark, word_vectors
from vspcn_lib.runs.launcher import ignored
from vspcn_lib.runs.processes import own_rows, state
from vspcn_lib.system.memory import keep_freed_memory, room
from vspcn_lib.zeroshot import ZeroShotModel


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """bf16 where the config asks for it: frozen blocks and fusion in bf16, losses in float32."""
    return torch.autocast(device.type, torch.bfloat16, config.train.precision == "bf16")


def placed(backbone: FrozenViT, config: Config, device: torch.device) -> FrozenViT:
    """The ViT on its device, with the attention that a run of this config reads images by.

    PyTorch's fused attention is slow backwards in bf16 on a CPU; the plain one rounds otherwise in bf16.
    """
    if device.type == "cpu" and config.train.precision == "bf16":
        backbone.unfuse()
    return backbone.to(device)


class FeatureError(ValueError):
    """The frozen ViT returns numbers that are not finite; the message names an image."""


@dataclass
class Workspace:
    """What both phases of a run share: data, pixels, vectors, the frozen ViT and the device."""

    config: Config
    bench: Benchmark
    pixels: np.ndarray
    word_vectors: Tensor
    vector_source: str
    backbone: FrozenViT
    accelerator: Accelerator
    photos: str
    """`photo_identity` of the benchmark when it was opened"""
    vector_notes: tuple[str, ...] = ()
    """what the text encoder left out, and attributes with equal vectors"""
    known: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """by the function that computes it: what frozen methods keep of the images [n,...], and which are computed [n]; a
    workspace of the same data with other settings shares it"""
    quiet: bool = False
    """no sentences and no progress bars, for a run in a thread whose output would land in another notebook cell"""

    @classmethod
    def open(cls, config: Config, backbone: FrozenViT | None = None, quiet: bool = False) -> Workspace:
        """Read and check everything before any long work; `backbone` replaces the config's (tests).

        Raises an error of the library with one sentence for whatever is missing or does not fit: `BenchmarkError`,
        `ConfigError`, `BackboneError`, `SemanticsError`, `ImageError`.
        """
        keep_freed_memory()
        check_source(config.data.vectors)
        with state().main_process_first():  # of several processes one fills a cache, the others find it
            if backbone is None:
                config.check_patch(inspect(config.model.backbone))  # before a download or a large file
                backbone = load_backbone(config.model.backbone, config.data.size, mean=config.data.mean,
                                         std=config.data.std)
            config.check_patch(backbone.patch)
            bench = open_benchmark(config.data)
        method(config).check(config, backbone, len(bench.attribute_names))
        vectors = word_vectors(config, bench)
        with together():
            # One a process; the precision is each workspace's own. The plugin keeps the launcher's number of steps, by
            # which accelerate would divide every loss, out of it.
            accelerator = Accelerator(mixed_precision="no",
                                      gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1))
        with accelerator.main_process_first():
            bench = compare_photos(bench, progress=not quiet)
            pixels = image_cache(bench.image_paths, config.data.size, progress=not quiet)
            photos = photo_identity(bench)
        tag = backbone.source
        work = cls(config, bench, pixels, torch.from_numpy(np.array(vectors.values)), vectors.source,
                   placed(backbone, config, accelerator.device), accelerator, photos, vectors.notes, quiet=quiet)
        said = (*bench.notes, *ignored(config), *filter(None, [tag.get("note")]), *vectors.notes)
        for note in said:
            work.say(note)
        work.say(f"{bench.name}: {bench.described} | backbone {tag['tag']} ({tag['source']}, sha256 "
                 f"{tag['sha256'][:12]}{', pixels ' + tag['pixels'] if 'pixels' in tag else ''}) | {vectors.source}")
        return work

    def autocast(self) -> torch.autocast:
        """The config's precision, on the workspace's device."""
        return autocast(self.config, self.accelerator.device)

    def say(self, sentence: str) -> None:
        """Print once for all processes, unless the workspace is quiet."""
        if not self.quiet:
            self.accelerator.print(sentence)

    def model(self) -> ZeroShotModel:
        """A fresh model, its start fixed by the seed."""
        torch.manual_seed(self.config.train.seed)
        return build(self.backbone, self.word_vectors, self.config).to(self.accelerator.device)

    @property
    def inputs(self) -> dict[str, str]:
        """Checksums of what a run reads besides its config: a run goes on, and is opened again, with the same ones."""
        reads = method(self.config).reads_words(self.config)
        return identity(self.bench, self.photos, self.word_vectors.numpy()[:, :None if reads else 0],
                        self.backbone.source["sha256"])

    def batches(self, indices: np.ndarray, augment: bool, shuffle: bool = False,
                shared: bool = False) -> Batches | FeatureBatches:
        """Image batches; for a method that keeps something of each image, batches of that, computed once.

        With `shuffle` they come as the method asks for; with `shared`, each of several processes gets its
        rows of every image batch.
        """
        t, device, labels, order = self.config.train, self.accelerator.device, self.bench.labels, None
        if shuffle:
            order = partial(method(self.config).order, self.config, labels[indices])
        if method(self.config).cached(self.config):
            return FeatureBatches(self.features(indices), labels, indices, t.batch_size, t.seed, order, device)
        return Batches(self.pixels, labels, indices, t.batch_size, normalise=self.backbone.normalise, device=device,
                       augment=augment, order=order, seed=t.seed,
                       own=partial(own_rows, acc=self.accelerator) if shared else None)

    def some_images(self, indices: np.ndarray, count: int = 128) -> Tensor:
        """`count` of the images [count,3,H,W], drawn by the seed, the same ones in every process."""
        drawn = np.random.default_rng(self.config.train.seed).permutation(indices)[:count]
        return torch.cat([x for x, _, _ in self.batches(np.sort(drawn), augment=False).epoch(0)])

    @torch.no_grad()
    def features(self, indices: np.ndarray) -> Tensor:
        """What the method keeps of frozen images [len(indices), ...]; each passes the ViT once."""
        kept = method(self.config).frozen.__qualname__
        known, done = self.known.get(kept, (None, np.zeros(len(self.bench.labels), bool)))
        missing = np.unique(indices[~done[indices]])
        if not len(missing):
            return torch.from_numpy(known[indices])
        model = self.model().eval()
        plain = Batches(self.pixels, self.bench.labels, missing, 64, normalise=self.backbone.normalise,
                        device=self.accelerator.device)
        for x, _, chosen in tqdm(plain.epoch(0), "features", len(plain), leave=False, disable=self.quiet):
            with self.autocast():
                found = model.frozen(x)
            if not torch.isfinite(found).all():
                raise FeatureError("the frozen ViT gives NaN or infinite features for one of "
                                   f"{len(chosen)} images from {self.bench.image_paths[chosen[0]]} on: check the "
                                   "weights")
            if known is None:  # 4 bytes a number, whatever is asked for and however often
                known = room((len(done), *found.shape[1:]))
                self.known[kept] = known, done
            known[chosen], done[chosen] = found.float().cpu().numpy(), True
        return torch.from_numpy(known[indices])


@dataclass
class FeatureBatches:
    """The batches of `Batches`, over features [n,...] that were computed once."""

    features: Tensor
    labels: np.ndarray
    indices: np.ndarray
    batch_size: int
    seed: int
    order: Order | None
    device: torch.device

    def __len__(self) -> int:
        return len(epoch_rows(self.order, len(self.indices), self.batch_size, self.seed, 0))

    def epoch(self, e: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Features [B,...], labels [B], indices [B]; the order of training epochs is fixed by (seed, e)."""
        for rows in epoch_rows(self.order, len(self.indices), self.batch_size, self.seed, e)[start:]:
            chosen = self.indices[rows]
            labels = torch.as_tensor(self.labels[chosen], device=self.device)
            yield self.features[torch.as_tensor(rows)].to(self.device), labels, chosen
