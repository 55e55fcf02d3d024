"""Every attention map of an image at once, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, palette, script


class Grid(Live):
    """Maps float32 [rows,columns,cells,cells] of a JPEG `image`; the `picked` one [row, column] is shown large.

    `change` [rows][columns]: how much of a map lies elsewhere in other images, 0 to 1; below `floor` it is the same for
    all of them. `words` [rows][columns]: what a map's prompt attends to besides; `alike`: whether its strongest word is
    the same for all images, None where there are no words.
    """

    _esm = script("grid")
    image = traitlets.Bytes().tag(sync=True)
    maps = traitlets.Bytes().tag(sync=True)
    cells = traitlets.Int(1).tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    columns = traitlets.List().tag(sync=True)
    change = traitlets.List().tag(sync=True)
    words = traitlets.List().tag(sync=True)
    alike = traitlets.List().tag(sync=True)
    floor = traitlets.Float(0.01).tag(sync=True)
    picked = traitlets.List(default_value=[0, 0]).tag(sync=True)
    palette = traitlets.Bytes(palette()).tag(sync=True)
    small = traitlets.Int(30).tag(sync=True)
    side = traitlets.Int(260).tag(sync=True)
