"""How a table is shown in a notebook."""

from __future__ import annotations

import pandas as pd


class Table(pd.DataFrame):
    """A table whose cells never wrap, on any page that shows it; a wide one is scrolled."""

    @property
    def _constructor(self) -> type[Table]:
        return Table  # what is cut out of it is shown in the same way

    def _repr_html_(self) -> str | None:
        found = super()._repr_html_()
        # An attribute, because pages that do not trust a notebook drop every style.
        return found and found.replace("<td>", "<td nowrap>").replace("<th>", "<th nowrap>")
