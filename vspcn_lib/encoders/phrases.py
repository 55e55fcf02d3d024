"""Attribute names to what text encoders read: words for word vectors, a sentence for sentence encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Compounds, misspellings and rare forms of the official attribute names in words that every vocabulary knows well.
FIXES = {
    "spatulate": "broad", "upperparts": "upper parts", "underparts": "under parts", "uppertail": "upper tail",
    "undertail": "under tail", "eyebrow": "eye brow", "eyering": "eye ring", "eyeline": "eye line",
    "multicolored": "many colors", "longleg": "long leg", "longneck": "long neck", "toughskin": "tough skin",
    "buckteeth": "buck teeth", "chewteeth": "chew teeth", "meatteeth": "meat teeth", "strainteeth": "strain teeth",
    "newworld": "new world", "oldworld": "old world", "nestspot": "nest spot", "quadrapedal": "quadruped",
    "flys": "flies", "hairless": "bald",
}


class SemanticsError(ValueError):
    """Attribute vectors are missing or do not know a phrase; the message says what to do."""


def attribute_phrase(name: str) -> list[str]:
    """The words of an attribute name: `has_bill_shape::curved_(up_or_down)` -> bill, shape, curved.

    Drops `has_`, cuts at `(`, splits on `_ - :: + /` and spaces, lower-cases, and applies `FIXES`.
    """
    words = re.split(r"[_\-:+/\s]+", name.split("(")[0].lower().removeprefix("has_"))
    return [part for word in words if word for part in FIXES.get(word, word).split()]


def words_of(name: str, phrases: Mapping[str, str]) -> list[str]:
    """The words that word vectors are asked for: those of the benchmark's own phrase, else of the name."""
    if name in phrases:
        return [word for word in re.split(r"[^\w']+", phrases[name].lower()) if word]
    return attribute_phrase(name)


def sentence_of(name: str, phrases: Mapping[str, str], template: str) -> str:
    """What a sentence encoder reads: `template` with the phrase in it.

    The benchmark's own phrase as it stands; else the name's words, the value before its part
    (`has_bill_shape::curved` -> curved bill shape), as a speaker would say them.
    """
    part, _, value = name.partition("::")
    phrase = phrases.get(name) or " ".join([*attribute_phrase(value), *attribute_phrase(part)])
    return template.replace("{}", phrase)


def bracketed(name: str) -> str:
    """The part of a name that `attribute_phrase` cuts off: from the first bracket on, or ""."""
    return name[name.index("("):] if "(" in name else ""
