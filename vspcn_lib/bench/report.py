"""A benchmark record as a table for the README and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vspcn_lib.bench.workloads import FLOOR, NAMES
from vspcn_lib.views import plots


def table(record: dict[str, Any]) -> str:
    """Markdown: seconds, ratio to the floor with quartiles, GFLOP, share of the matmul rate, peak memory."""
    found, memory = record["parts"]["steps"], record["parts"].get("memory")
    lines = ["| | training step | × ViT | inference | × ViT | GFLOP × ViT | of matmul rate | peak MiB, × ViT |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name in (n for n in NAMES if n in found["train"]):  # older records have fewer
        train, infer = found["train"][name], found["infer"][name]
        flops = train["GFLOP"] / found["train"][FLOOR]["GFLOP"]
        peak = f"{memory['train'][name]['peak']:.0f}, {memory['train'][name]['ratio']:.2f}" if memory else ""
        lines.append(f"| {name} | {train['seconds']:.3f} s | {train['ratio']:.2f} ({train['low']:.2f}–"
                     f"{train['high']:.2f}) | {infer['seconds']:.3f} s | {infer['ratio']:.2f} ({infer['low']:.2f}–"
                     f"{infer['high']:.2f}) | {flops:.2f} | {train['of matmul rate']:.0%} | {peak} |")
    return "\n".join(lines) + "\n"


def report(record: dict[str, Any]) -> str:
    """The table and one line on each other part that was measured."""
    parts, lines = record["parts"], []
    if "steps" in parts:
        for kind in ("train", "infer"):
            fusion = parts["steps"][kind]["fusion"]
            lines.append(f"fusion and adapter, {kind}: {fusion['share']:.0%} of the step, "
                         f"{fusion['plain / ours']:.1f} x faster than plain")
    for name, row in {**parts.get("data", {}), **parts.get("evaluation", {})}.items():
        if name != "measured":
            lines.append(f"{name}: {row['images/s']} images/s")
    for name, row in parts.get("sweeps", {}).items():
        if name != "measured":
            lines.append(f"tau sweep and AUSUC of {name}: {1e3 * row['exact s']:.0f} ms, a grid {row['ratio']} x")
    for axis, rows in parts.get("growth", {}).items():
        if axis == "images":
            lines.append("images: " + ", ".join(f"{r['value']}: batches add {r['batches MiB']:.0f} MiB, metrics "
                                                f"{r['metrics MiB']:.0f} MiB of {r['scores MiB']:.0f}" for r in rows))
        elif axis == "seeds":
            lines.append("seeds side by side: " + ", ".join(f"{r['value']}: {r['images/s']} images/s" for r in rows))
        elif axis != "measured":
            lines.append(f"{axis}: " + ", ".join(f"{r['value']}: {r['seconds'] / r['batch']:.3f} s an image, "
                                                 f"{r['seconds'] / r['floor']:.2f} x ViT" for r in rows))
    return (table(record) if "steps" in parts else "") + "\n".join(lines)


AXES = {"attributes": "attributes", "classes": "classes", "prompts": "prompts", "size": "image side, px",
        "images": "images", "seeds": "seeds side by side"}


def draw(record: dict[str, Any], target: Path) -> Path:
    """Bars of step and inference against the floor, and the cost along each axis that was measured; PNG."""
    parts = record["parts"]
    growth = parts.get("growth", {})
    axes_of_growth = [a for a in AXES if a in growth]
    rows_of_growth = -(-len(axes_of_growth) // 3)
    figure = Figure(figsize=(8, 3 + 2.3 * rows_of_growth), layout="constrained")
    grid = figure.add_gridspec(1 + rows_of_growth, 3, height_ratios=[3] + [2.3] * rows_of_growth)
    every = [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1 + i // 3, i % 3])
                                               for i in range(len(axes_of_growth)))]
    if "steps" in parts:
        names = [n for n in NAMES if n in parts["steps"]["train"]]
        for k, (kind, label) in enumerate((("train", "training step"), ("infer", "inference"))):
            rows = [parts["steps"][kind][n] for n in names]
            ratios = [r["ratio"] for r in rows]
            error = [[r["ratio"] - r["low"] for r in rows], [r["high"] - r["ratio"] for r in rows]]
            every[0].barh([i + 0.38 * k for i in range(len(names))], ratios, 0.36, xerr=error, label=label,
                          color=plots.COLOURS[k], error_kw={"lw": 0.8})
        every[0].set(yticks=[i + 0.19 for i in range(len(names))], yticklabels=names, xlabel="time, × the frozen ViT")
        every[0].axvline(1, color="0.5", lw=0.8)
        every[0].invert_yaxis()
        every[0].legend(frameon=False, fontsize=8, loc="lower right")
    for ax, axis in zip(every[1:], axes_of_growth, strict=True):
        rows = growth[axis]
        x = [r["value"] for r in rows]
        ax.set(xlabel=AXES[axis], xscale="linear" if axis == "seeds" else "log")
        ax.set_xticks(x, [f"{v:,}" for v in x])
        ax.set_xticks([], minor=True)
        if axis == "images":
            for k, name in enumerate(("batches MiB", "metrics MiB", "scores MiB")):
                ax.plot(x, [r[name] for r in rows], "os^"[k] + "-", color=plots.COLOURS[k], ms=3,
                        label=name.removesuffix(" MiB"))
            ax.set_ylabel("memory, MiB")
        elif axis == "seeds":
            ax.plot(x, [r["images/s"] for r in rows], "o-", color=plots.COLOURS[0], ms=3)
            ax.set(ylabel="images/s of all", ylim=(0, None))
        else:
            for k, (name, label) in enumerate((("seconds", "VSPCN"), ("floor", "ViT"))):
                ax.plot(x, [1e3 * r[name] / r["batch"] for r in rows], ("o-", "s--")[k], color=plots.COLOURS[k], ms=3,
                        label=label)
            ax.set(ylabel="training, ms an image", ylim=(0, None))
        if axis != "seeds":  # one line needs no name
            ax.legend(frameon=False, fontsize=7)
    return plots.save(figure, target)
