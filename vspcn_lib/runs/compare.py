"""What differs between two configs, or between the data of two sessions of a run, in words."""

from __future__ import annotations

from vspcn_lib.config import Config, as_dict


def changed_fields(old: Config, new: Config) -> str:
    """Such as "train.lr (0.001 -> 0.1), ..."; empty where they are equal."""
    a, b = ({f"{g}.{k}": v for g, part in as_dict(c).items() for k, v in part.items()} for c in (old, new))
    names = [k for k in {**a, **b} if (k in a, a.get(k)) != (k in b, b.get(k))]
    return ", ".join(f"{k} ({a.get(k, 'not read')} -> {b.get(k, 'not read')})" for k in names)


def changed_inputs(old: dict[str, str], new: dict[str, str]) -> str:
    """Such as "another split (0f3a... -> 77c1...), ...", of checksums by name; empty where they are equal."""
    return ", ".join(f"another {k} ({str(old.get(k))[:12]} -> {v[:12]})" for k, v in new.items() if old.get(k) != v)
