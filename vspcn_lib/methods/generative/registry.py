"""Every generator by name, and the settings of GZSL by generation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vspcn_lib.config import ConfigError, check_range
from vspcn_lib.methods.generative.cegzsl import CEGZSL, CEGZSLConfig
from vspcn_lib.methods.generative.classifier import ClassifierConfig
from vspcn_lib.methods.generative.cvae import CVAE, CVAEConfig
from vspcn_lib.methods.generative.flow import Flow, FlowConfig
from vspcn_lib.methods.generative.generator import Generator

GENERATORS: dict[str, type[Generator]] = {g.name: g for g in (CEGZSL, CVAE, Flow)}


@dataclass(frozen=True)
class GenerateConfig:
    """From a finished run to a classifier of all classes: what is generated, from what, and how it is classified."""

    generator: Literal["cegzsl", "vae", "flow"] = "flow"
    """cegzsl: CE-GZSL, a Wasserstein GAN with two contrasts; vae: a conditional VAE; flow: conditional flow matching"""
    streams: Literal["all", "cls", "visual", "semantic"] = "all"
    """which of the run's features: one stream, or all that it has side by side"""
    scaling: Literal["standardise", "minmax"] = "standardise"
    """of features, dimension by dimension, from training images; minmax: to [0,1], as CE-GZSL's release has it"""
    folds: int = 0
    """real seen features come from models retrained without their fold, this many; 0: from the run's own model, which
    was trained on those very images, but for the few of each class that it held out for calibration and that are mixed
    in (birdlets' validation prefers it: docs/generative.md). Features of a frozen ViT are the same, and cost nothing"""
    classifier: Literal["softmax", "nearest"] = "softmax"
    """linear softmax, or nearest class mean (whose tau is chosen on validation: no number of features shifts it)"""
    ratios: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    """synthetic features of an unseen class for each real one of a seen class (their mean number), to choose from on
    validation classes: the more, the likelier an unseen class, so this calibrates as tau does"""
    linear: ClassifierConfig = field(default_factory=ClassifierConfig)
    cegzsl: CEGZSLConfig = field(default_factory=CEGZSLConfig)
    vae: CVAEConfig = field(default_factory=CVAEConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self) -> None:
        check_range("folds", self.folds, 0, 100)
        if self.folds == 1:
            raise ConfigError("folds = 1 leaves no image to retrain on: choose 0, or 2 to 100")
        if not self.ratios:
            raise ConfigError("ratios is empty: name at least one number of synthetic features for each real one")
        for ratio in self.ratios:
            check_range("ratios", ratio, 1e-3, 1e4)

    @property
    def own(self) -> Any:
        """The settings of the generator that is used."""
        return getattr(self, self.generator)

    def steps(self, steps: int) -> GenerateConfig:
        """The same with another number of the generator's training steps."""
        return replace(self, **{self.generator: replace(self.own, steps=steps)})

    def kept(self) -> dict[str, Any]:
        """What a record holds: the settings that are read, as plain values."""
        unread = {*GENERATORS} - {self.generator} | ({"linear"} if self.classifier == "nearest" else set())
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items() if n not in unread}


def read_settings(kept: dict[str, Any]) -> GenerateConfig:
    """The settings that `kept` wrote. Raises `ConfigError` for what no version knows."""
    groups = {"linear": ClassifierConfig, **{n: type(getattr(GenerateConfig(), n)) for n in GENERATORS}}
    try:
        return GenerateConfig(**{n: groups[n](**v) if n in groups else tuple(v) if n == "ratios" else v
                                 for n, v in kept.items()})
    except TypeError as error:
        raise ConfigError(f"these are no settings of this version: {error}") from error
