"""Whether the paths of a finished run work, block by block and by intervention: a table, a record, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vspcn_lib.config import as_dict
from vspcn_lib.model import VSPCN
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.paths import HOW, Images, measure
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.records import anywhere, provenance
from vspcn_lib.views.plots import COLOURS, save
from vspcn_lib.zeroshot import ZeroShotModel


def effective(weights: Tensor) -> Tensor:
    """exp(entropy) of weights [...,T] that sum to 1: the number of tokens that share the attention, 1 to T, [...]."""
    return torch.exp(-(weights * weights.clamp_min(1e-12).log()).sum(-1))


def share_between(values: Tensor) -> float:
    """The share of the energy of values [n,...] in which the n differ, 0..1: 1 - |mean|^2 / mean |x|^2."""
    flat = values.flatten(1)
    return max(0.0, 1 - float(flat.mean(0).square().sum() / flat.square().sum(1).mean()))


def differing(strongest: Tensor, labels: np.ndarray) -> float:
    """The share of pairs of images of different classes whose strongest token differs; strongest [n,P], labels [n]."""
    other = torch.as_tensor(labels[:, None] != labels[None, :])
    pairs = strongest[:, None] != strongest[None, :]
    return float(pairs[other].float().mean()) if other.any() else float("nan")


@torch.inference_mode()
def statistics(work: Workspace, model: VSPCN, most: int = 256) -> pd.DataFrame:
    """One row a deep block, over up to `most` test images, of the tokens as they enter it.

    Lengths (cls, patches, prompts, and what fusion adds to them), the share of the prompts' energy in which they differ
    from each other and between images, and of SVPF, SSPF and the adapter the share of tokens that attention spreads
    over (1 = evenly over all), the same of the learned bias, and how often images of different classes differ in the
    strongest token.
    """
    model.eval()
    images = Images.of(work, model, most)
    kept: dict[tuple[str, int], list[Tensor]] = {}

    def keep(name: str, block: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor | None = None) -> None:
            value = inputs[0] if output is None else output
            kept.setdefault((name, block), []).append(value.detach().float().cpu())
        return hook

    handles, parts = [], model.paths()
    for i, block in enumerate(model.backbone.blocks[model.first_strong:]):
        handles.append(block.register_forward_pre_hook(keep("tokens", i)))
        for name in ("SVPF", "SSPF"):
            if name in parts:
                handles.append(parts[name][i].attention.register_forward_hook(keep(f"{name} map", i)))
                handles.append(parts[name][i].output.register_forward_hook(keep(f"{name} adds", i)))
        if "adapter" in parts:
            def summary(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, i: int = i) -> None:
                spread = effective(output.float()).mean() / output.shape[-1]
                kept.setdefault(("adapter", i), []).append(spread.cpu().reshape(1))
            handles.append(parts["adapter"][i].attention.register_forward_hook(summary))
    try:
        for tokens, attributes in images.shallow():
            with work.autocast():
                model.deep(tokens, attributes, whole=True)  # the last block too, with all its tokens
    finally:
        for handle in handles:
            handle.remove()
    labels, rows = work.bench.labels[images.indices], []
    for i in range(len(model.backbone.blocks) - model.first_strong):
        prefix, visual, semantic, patches = model.layout.split(torch.cat(kept["tokens", i]))
        row: dict[str, float] = {"block": model.first_strong + i + 1, "cls length": _length(prefix[:, :1]),
                                 "patch length": _length(patches)}
        for name, path, tokens in (("visual", "SVPF", visual), ("semantic", "SSPF", semantic)):
            if not tokens.shape[1]:
                continue
            row |= {f"{name} length": _length(tokens), f"{name} between images": share_between(tokens)}
            if tokens.shape[1] > 1:
                row[f"{name} from each other"] = float(np.mean([share_between(one) for one in tokens]))
            if path in parts:
                weights, part = torch.cat(kept[f"{path} map", i]), parts[path][i]
                row |= {f"{path} adds": _length(torch.cat(kept[f"{path} adds", i])),
                        f"{path} spread": float(effective(weights).mean()) / weights.shape[-1],
                        f"{path} strongest differs": differing(weights.argmax(-1), labels),
                        f"{path} bias spread": float(effective(part.bias.detach().float().softmax(-1)).mean())
                        / part.bias.shape[-1]}
        if "adapter" in parts:
            row["adapter spread"] = float(torch.cat(kept["adapter", i]).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _length(tokens: Tensor) -> float:
    """Mean Euclidean length of tokens [n,T,D]."""
    return float(tokens.norm(dim=-1).mean())


def paths_report(work: Workspace, model: ZeroShotModel, tau: float, most: int) -> dict[str, Any]:
    """Every intervention of `HOW` and the `statistics` of up to `most` test images, as one record for JSON."""
    found = measure(work, model, most, tuple(HOW), tau)
    if not found:
        return {}
    return {**found, "blocks": statistics(work, model, most).round(4).to_dict("list")}


def examine(run: Path, most: int, out: Path | None = None) -> str:
    """The `paths_report` of a finished run as text; paths.json and paths.png go to `out`, else the run's folder.

    In `records/paths` a paths.json of any name is drawn by `make figures`.
    """
    folder, out = RunFolder(run), out or run
    tau = float(folder.scores()["tau"])
    work, model = load_trained(folder)
    found = paths_report(work, model, tau, most)
    if not found:
        return (f"{type(model).__name__} has no path that reads the image before its heads: what it adds to the ViT is "
                "the same for every image")
    found["provenance"] = provenance(run.name, {"result": folder.read_json("result.json"),
                                                "config": as_dict(anywhere(folder.config()))})
    out.mkdir(parents=True, exist_ok=True)
    (out / "paths.json").write_text(json.dumps(found, indent=1) + "\n")
    return f"{text(found)}\n\n{out / 'paths.json'}\n{save(paths_figure(found), out / 'paths.png')}"


def text(found: dict[str, Any]) -> str:
    """A `paths_report` as two tables."""
    lines = [f"{found['images']} test images, H {found['H']:.1f} at their best tau, AUSUC {found['AUSUC']:.3f}\n",
             f"{'path':<9}" + "".join(f"{how:>28}" for how in HOW), " " * 9 + f"{'H   AUSUC   changed':>28}" * len(HOW)]
    for path in found["mean"]:
        cells = [found[how][path] for how in HOW]
        lines.append(f"{path:<9}" + "".join(f"{c['H']:+12.1f}{c['AUSUC']:+8.3f}{c['changed']:8.0%}" for c in cells))
    lines += ["", *(f"{how}: {what}" for how, what in HOW.items()), ""]
    blocks = pd.DataFrame(found["blocks"]).set_index("block").T
    return "\n".join(lines) + blocks.to_string(float_format="{:.3f}".format)


def paths_figure(found: dict[str, Any]) -> Figure:
    """What a run loses without each path's image, and beside it, block by block, how far attention and bias are spread
    and how often the strongest token differs between images of different classes."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    names = list(found["mean"])
    for k, (how, colour) in enumerate((("mean", COLOURS[0]), ("attention", COLOURS[5]))):
        left.barh(np.arange(len(names)) + 0.38 * k - 0.19, [found[how][n]["H"] for n in names], 0.36, color=colour,
                  label=HOW[how])
    left.set(yticks=range(len(names)), yticklabels=names, xlabel="change of H (points)")
    left.invert_yaxis()
    left.axvline(0, color="0.5", lw=0.8)
    left.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    blocks = found["blocks"]
    for path, colour in (("SVPF", COLOURS[0]), ("SSPF", COLOURS[1])):
        if f"{path} spread" in blocks:
            middle.plot(blocks["block"], blocks[f"{path} spread"], "o-", color=colour, label=f"{path} attention")
            middle.plot(blocks["block"], blocks[f"{path} bias spread"], "s--", color=colour, label=f"{path} bias")
            right.plot(blocks["block"], blocks[f"{path} strongest differs"], "o-", color=colour, label=path)
    middle.set(xlabel="block", ylabel="tokens that share it (1 = all, evenly)", ylim=(0, 1.05))
    right.set(xlabel="block", ylim=(-0.02, 1.05))
    right.set_ylabel("strongest token differs\n(share of image pairs across classes)")
    for ax in (middle, right):
        ax.legend(fontsize=7, frameon=False)
        ax.set_xticks(blocks["block"])
    return figure
