"""Tables in a notebook: no cell wraps, and what is cut out of a table is shown as it is."""

import re

from vspcn_lib.studies.shown import Table


def test_no_cell_wraps_nor_does_one_of_what_is_cut_out():
    table = Table({"row": ["full, cls readout", "a <td> of text"], "H": ["68.9 ± 0.4", "1.0"], "n": [3, 4]})
    for shown in (table, table[["row", "H"]], table[table["n"] > 3], table.set_index("row"), table.head(1).T):
        html = shown._repr_html_()
        cells = re.findall(r"<t[dh](?: [^>]*)?>", html)
        assert len(cells) > 3 and not [c for c in cells if "nowrap" not in c]
    assert "a &lt;td&gt; of text" in table._repr_html_()
    assert table["H"].str.split(" ").str[0].astype(float).tolist() == [68.9, 1.0]
