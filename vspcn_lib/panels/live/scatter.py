"""Points with the images behind them, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script
from vspcn_lib.views.plots import COLOURS


class Scatter(Live):
    """Several layouts of the same images side by side: `layouts` float32 [L,n,2], `titles` and `runs` [L].

    `labels` [n] and `predicted` [L][n] are classes, `names` and `unseen` belong to the classes; `atlas` holds the
    images as square tiles (`base.atlas`). `picked` is the image clicked last, `pinned` are those shown below.
    """

    _esm = script("scatter")
    layouts = traitlets.Bytes().tag(sync=True)
    titles = traitlets.List().tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    labels = traitlets.List().tag(sync=True)
    predicted = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    unseen = traitlets.List().tag(sync=True)
    atlas = traitlets.Bytes().tag(sync=True)
    tile = traitlets.Int(64).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    by = traitlets.Unicode("class").tag(sync=True)
    hidden = traitlets.List().tag(sync=True)
    pinned = traitlets.List().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    colours = traitlets.List(default_value=list(COLOURS)).tag(sync=True)
    side = traitlets.Int(400).tag(sync=True)
