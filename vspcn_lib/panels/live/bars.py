"""One bar a class or attribute, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script
from vspcn_lib.views.plots import COLOURS


class Bars(Live):
    """`values` of `names`, coloured by `group`; with `zero` also their change against it.

    `steps`: float64 rows (threshold, index, change), thresholds rising: every row whose threshold lies below `at` adds
    its change to a value, so that a slider over `at` needs no Python.
    """

    _esm = script("bars")
    names = traitlets.List().tag(sync=True)
    values = traitlets.List().tag(sync=True)
    zero = traitlets.List().tag(sync=True)
    steps = traitlets.Bytes().tag(sync=True)
    at = traitlets.Float().tag(sync=True)
    group = traitlets.List().tag(sync=True)
    groups = traitlets.List().tag(sync=True)
    colours = traitlets.List(default_value=[COLOURS[0], COLOURS[1]]).tag(sync=True)
    sort = traitlets.Unicode("class").tag(sync=True)
    changes = traitlets.Bool().tag(sync=True)
    sortable = traitlets.Bool(True).tag(sync=True)
    tabled = traitlets.Bool(True).tag(sync=True)
    span = traitlets.List().tag(sync=True)
    digits = traitlets.Int(1).tag(sync=True)
    columns = traitlets.List(default_value=["before", "now"]).tag(sync=True)
    axes = traitlets.List(default_value=["", ""]).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    alt = traitlets.Unicode("bars").tag(sync=True)
    width = traitlets.Int(520).tag(sync=True)
    height = traitlets.Int(360).tag(sync=True)
