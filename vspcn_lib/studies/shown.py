"""How a table is shown in a notebook."""

from __future__ import annotations

import re

import pandas as pd


class Table(pd.DataFrame):
    """A table whose cells never wrap, on any page that shows it; a wide one is scrolled."""

    @property
    def _constructor(self) -> type[Table]:
        return Table  # what is cut out of it is shown in the same way

    def _repr_html_(self) -> str | None:
        found = super()._repr_html_()
        # In the text itself, because a page that does not trust a notebook drops styles and attributes.
        return found and re.sub(r"(?<=<t[dh]>)[^<]+", _unbroken, found)


def _unbroken(cell: re.Match[str]) -> str:
    return cell[0].replace(" ", "&nbsp;").replace("-", "&#8209;")
