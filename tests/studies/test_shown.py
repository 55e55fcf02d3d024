"""Tables in a notebook: no cell wraps, and what is cut out of a table is shown as it is."""

import re
from html import unescape

import pandas as pd

from vspcn_lib.studies.shown import Table


def test_no_cell_wraps_nor_does_one_of_what_is_cut_out():
    table = Table({"row": ["full, cls readout", "a <td> of text"], "H - full": ["68.9 ± 0.4", "-1.0"], "n": [3, 4]})
    for shown in (table, table[["row", "H - full"]], table[table["n"] > 3], table.set_index("row"), table.head(1).T):
        html = shown._repr_html_()
        cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", html)
        assert len(cells) > 3 and not [c for c in cells if re.search(r"[\s-]", c)]
        assert unescape(html).replace("\xa0", " ").replace("\u2011", "-") == unescape(pd.DataFrame(shown)._repr_html_())
    assert "a&nbsp;&lt;td&gt;&nbsp;of&nbsp;text" in table._repr_html_()
    assert table["H - full"].str.split(" ").str[0].astype(float).tolist() == [68.9, -1.0]
