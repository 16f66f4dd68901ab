"""Ids that a spreadsheet or a script may have changed: `01` became `1`, `12` became `12.0`, `F1` became `f1`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .images import CohortError, scan_name


def require_distinct_ids(found: Iterable[tuple[str, str, str]]) -> None:
    """Refuse an infant or session whose id is written in two ways, as `sub-01` in the folder and `1` in a table.

    Args:
        found: (participant, session, where it was found); the session may be "".

    Raises:
        CohortError: see `require_distinct`.
    """
    found = list(found)
    infants = [(scan_name(participant, ""), where) for participant, _, where in found]
    sessions = [(scan_name(participant, session), where) for participant, session, where in found if session]
    for spellings, what in ((infants, "infant"), (sessions, "session")):
        advice = f"Write its id in the tables as its folder is named; if these are different {what}s, rename one."
        require_distinct(spellings, what, advice)


def require_distinct_families(families: Iterable[tuple[str, str]]) -> None:
    """Refuse a family whose id is written in two ways: it would count as two, and siblings could be split.

    Args:
        families: (family, participant).

    Raises:
        CohortError: see `require_distinct`.
    """
    require_distinct(
        ((family, f"of sub-{participant}") for family, participant in families),
        "family",
        "Write the family_id of siblings in the same way; if these are different families, rename one.",
    )


def require_distinct(spellings: Iterable[tuple[str, str]], what: str, advice: str) -> None:
    """Refuse ids that are different texts but probably mean the same.

    Args:
        spellings: (id, where it was found) of every id, in any order, repeats included.
        what: what the ids are, for the message, such as `participant` or `family_id`.
        advice: how to correct them.

    Raises:
        CohortError: two ids differ only in leading zeros, a trailing `.0`, or upper and lower case. The message names
            both, where each was found, and the difference.
    """
    places: dict[str, dict[str, str]] = {}
    for text, where in spellings:
        places.setdefault(canonical(text), {}).setdefault(text, where)
    alike = [list(found.items())[:2] for found in places.values() if len(found) > 1]
    if not alike:
        return
    pairs = [
        f"{first} ({where_first}) and {second} ({where_second}) differ only in {difference(first, second)}"
        for (first, where_first), (second, where_second) in alike[:3]
    ]
    others = f"; and {len(alike) - 3} others" if len(alike) > 3 else ""
    raise CohortError(f"The same {what} seems to be written in two ways: {'; '.join(pairs)}{others}. {advice}")


def canonical(text: str) -> str:
    """An id without leading zeros of its numbers, without a trailing `.0`, in lower case.

    >>> [canonical(text) for text in ("007", "12.0", "F01", "1.05")]
    ['7', '12', 'f1', '1.05']
    """
    return _without_zeros(whole(text)).casefold()


def difference(first: str, second: str) -> str:
    """In what two ids with the same canonical text differ, in words."""
    one, two = whole(first), whole(second)
    found = {
        "a trailing .0": (one != first) != (two != second),
        "leading zeros": one.casefold() != two.casefold(),
        "upper and lower case": _without_zeros(one) != _without_zeros(two),
    }
    return " and ".join(words for words, differs in found.items() if differs) or "a trailing .0"


def whole(text: str) -> str:
    """A number without the `.0` that a program adds to whole numbers; other text unchanged."""
    return re.sub(r"\.0*$", "", text)


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)
