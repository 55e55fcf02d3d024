"""Thumbnails to choose from, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script


class Thumbs(Live):
    """Images of `labels` [n] as tiles of one `atlas`, with lines of text below; `picked` is the one clicked last."""

    _esm = script("thumbs")
    title = traitlets.Unicode().tag(sync=True)
    labels = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    unseen = traitlets.List().tag(sync=True)
    wrong = traitlets.List().tag(sync=True)
    captions = traitlets.List().tag(sync=True)
    atlas = traitlets.Bytes().tag(sync=True)
    tile = traitlets.Int(64).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    shown = traitlets.Int(56).tag(sync=True)
    wide = traitlets.Int(0).tag(sync=True)
    height = traitlets.Int(150).tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    only_class = traitlets.Int(-1).tag(sync=True)
    only_unseen = traitlets.Bool().tag(sync=True)
    only_wrong = traitlets.Bool().tag(sync=True)
