"""Maps over an image, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, palette, script


class Overlay(Live):
    """JPEG `image`, and `maps` float32 [k,cells,cells] over it, all on one scale, one of `titles` each.

    With `mixed` = [a, b] the last map is mix * maps[a] + (1 - mix) * maps[b]; {mix} and {rest} in a title are numbers.
    """

    _esm = script("overlay")
    image = traitlets.Bytes().tag(sync=True)
    maps = traitlets.Bytes().tag(sync=True)
    cells = traitlets.Int(1).tag(sync=True)
    titles = traitlets.List().tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)
    mixed = traitlets.List().tag(sync=True)
    mix = traitlets.Float(1.0).tag(sync=True)
    palette = traitlets.Bytes(palette()).tag(sync=True)
    side = traitlets.Int(190).tag(sync=True)
