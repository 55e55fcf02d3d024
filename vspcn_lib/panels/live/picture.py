"""A matplotlib picture as a widget that has a text alternative and follows a dark theme."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script


class Picture(Live):
    """PNG bytes `value`, `width` CSS pixels wide; a `chart` (no photo in it) turns dark in a dark theme."""

    _esm = script("picture")
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    width = traitlets.Int(0).tag(sync=True)
    chart = traitlets.Bool(True).tag(sync=True)
