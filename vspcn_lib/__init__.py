"""VSPCN workbench: generalized zero-shot learning with visual and semantic prompts in a frozen ViT.

Start with `model.py` (VSPCN), `losses.py` and `train.py` (the protocol); every other method is a file in `methods/`.
What a notebook needs is here, loaded when it is first used.
"""

import os
from importlib import import_module

# Threads that wait must not spin: on a shared machine that made panels eight times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {"preset": "studies.presets", "load_benchmark": "data.benchmarks", "VSPCN": "model", "run": "train",
         "load_trained": "views.trained", "gzsl_metrics": "metrics", "tau_sweep": "metrics", "ausuc": "metrics"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"vspcn_lib has no {name}: its public names are {', '.join(_HOME)}")
    return getattr(import_module(f"vspcn_lib.{_HOME[name]}"), name)
