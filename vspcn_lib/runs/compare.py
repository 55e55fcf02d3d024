"""What differs between two configs, in words."""

from __future__ import annotations

from vspcn_lib.config import Config, as_dict


def changed_fields(old: Config, new: Config) -> str:
    """Such as "train.lr (0.001 -> 0.1), ..."; empty where they are equal."""
    a, b = ({f"{g}.{k}": v for g, part in as_dict(c).items() for k, v in part.items()} for c in (old, new))
    names = [k for k in {**a, **b} if (k in a, a.get(k)) != (k in b, b.get(k))]
    return ", ".join(f"{k} ({a.get(k, 'not read')} -> {b.get(k, 'not read')})" for k in names)
