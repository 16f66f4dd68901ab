"""Text cells of tables that people open in a spreadsheet, which runs some cells as formulas."""

from __future__ import annotations

import re

# A spreadsheet takes such a cell for a formula, also behind a separator that it splits the line at
# (https://owasp.org/www-community/attacks/CSV_Injection). Apostrophes may come first: they are what `quoted` adds.
_START, _FORMULA = r"(?<![^;\t\r\n])", r"(?='*[=+\-@\t\r\n＝＋－＠])"
_TO_QUOTE, _QUOTED = re.compile(_START + _FORMULA), re.compile(_START + "'" + _FORMULA)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def quoted(cell: str) -> str:
    """The text of a cell for a table that people may open in a spreadsheet.

    An apostrophe comes before `=`, `+`, `-`, `@`, a tab or a line break at the start, so that the cell is not run as a
    formula. Numbers stay as they are. `read_cells` removes the apostrophe again.
    """
    return cell if _NUMBER.fullmatch(cell) else _TO_QUOTE.sub("'", cell)


def unquoted(cell: str) -> str:
    """The text that `quoted` was given."""
    return _QUOTED.sub("", cell)
