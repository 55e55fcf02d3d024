"""Lines with a point that moves along them, drawn in the browser."""

from __future__ import annotations

import traitlets

from vspcn_lib.panels.live.base import Live, script


class Curve(Live):
    """`lines`: dictionaries of name, colour, dash, x, y and, where a point moves, `at`: row i holds from at[i] on; or
    `rows`: a point moves by the number of the row, and rows[i] is what is said of it.

    A `thin` line repeats an earlier one's name and has no entry of its own in the legend. `at` moves the point along
    line `on`; with `harmonic` both axes are percent and H is drawn as contours. `point` [x, y, error] puts it off the
    lines. `marks`: x, y, shape (dot, diamond, star), label and the line they belong to.
    """

    _esm = script("curve")
    lines = traitlets.List().tag(sync=True)
    marks = traitlets.List().tag(sync=True)
    hidden = traitlets.List().tag(sync=True)
    rules = traitlets.List().tag(sync=True)
    on = traitlets.Unicode().tag(sync=True)
    at = traitlets.Float().tag(sync=True)
    point = traitlets.List().tag(sync=True)
    span = traitlets.Dict().tag(sync=True)
    names = traitlets.List(default_value=["x", "y", ""]).tag(sync=True)
    axes = traitlets.List(default_value=["", ""]).tag(sync=True)
    harmonic = traitlets.Bool().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    alt = traitlets.Unicode("a curve").tag(sync=True)
    width = traitlets.Int(440).tag(sync=True)
    height = traitlets.Int(360).tag(sync=True)
