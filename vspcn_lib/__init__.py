"""VSPCN workbench: generalized zero-shot learning with visual and semantic prompts in a frozen ViT.

Start with `model.py` (VSPCN), `losses.py` and `train.py` (the protocol); every other method is a file in `methods/`.
What a notebook needs is here, loaded when it is first used.
"""

import os
from importlib import import_module

# Threads that wait must not spin: on a shared machine that made panels eight times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_ROOMS = {
    "studies.presets": "preset", "data.benchmarks": "load_benchmark", "model": "VSPCN", "train": "run",
    "runs.trained": "load_trained", "metrics": "gzsl_metrics tau_sweep ausuc", "config": "DataConfig update",
    "runs.identity": "open_benchmark", "runs.evaluation": "LeakError guard", "runs.folder": "RunFolder",
    "encoders.phrases": "attribute_phrase", "encoders.semantics": "load_vectors", "commands.predict": "predict",
    "studies.records": "read_records read_scores summary", "studies.rows": "GENERATED GROUPS ROWS",
    "studies.shown": "Table",
    "studies.tables": "UNSEEN ablation_table generation_table latex paired_bootstrap", "views": "gallery",
    "views.calibration": "read_story", "views.curves": "draw_curves read_curves", "views.figures": "draw_figures",
    "views.paths": "paths_figure paths_report", "views.gallery": "plain_name",
    "panels.attention": "attention_panel", "panels.calibration": "landing_panel",
    "panels.chooser": "Chooser comparable compare_panel overlay_panel", "panels.errors": "error_panel",
    "panels.features": "fusion_panel tsne_panel", "panels.fields": "Slider",
    "panels.generated": "generated_panel generated_run", "panels.peers": "curves_panel peer_attention_panel",
    "panels.records": "sweep_panel",
    "panels.trained": "alpha_panel", "panels.training": "RetrainPanel TrainingPanel demo_run finished",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"vspcn_lib has no {name}: its public names are {', '.join(_HOME)}")
    room = import_module(f"vspcn_lib.{_HOME[name]}")
    return getattr(room, name) if hasattr(room, name) else import_module(f"{room.__name__}.{name}")
