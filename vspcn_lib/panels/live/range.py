"""A slider with its number beside it, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script


class Range(Live):
    """`value` between `min` and `max`; what a reader types comes as `typed` (text, count), a sentence in `wrong` marks
    the box red until it is mended."""

    _esm = script("range")
    value = traitlets.Float().tag(sync=True)
    min = traitlets.Float().tag(sync=True)
    max = traitlets.Float().tag(sync=True)
    step = traitlets.Float().tag(sync=True)
    whole = traitlets.Bool().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    hint = traitlets.Unicode().tag(sync=True)
    typed = traitlets.List(default_value=["", 0]).tag(sync=True)
    wrong = traitlets.Unicode().tag(sync=True)
