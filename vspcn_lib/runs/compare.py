"""What differs between two configs, or between the data of two sessions of a run, in words."""

from __future__ import annotations

from vspcn_lib.config import Config, as_dict


def changed_fields(old: Config, new: Config) -> str:
    """Such as "train.lr (0.001 -> 0.1), ..."; empty where they are equal."""
    a, b = as_dict(old), as_dict(new)
    return ", ".join(f"{g}.{k} ({a[g][k]} -> {v})" for g, part in b.items() for k, v in part.items() if a[g][k] != v)


def changed_inputs(old: dict[str, str], new: dict[str, str]) -> str:
    """Such as "another split (0f3a... -> 77c1...), ...", of checksums by name; empty where they are equal."""
    return ", ".join(f"another {k} ({str(old.get(k))[:12]} -> {v[:12]})" for k, v in new.items() if old.get(k) != v)
