"""Two spellings of one id: how they are recognised, and how the difference is worded."""

import pytest

from cohort.ids import canonical, difference, require_distinct
from cohort.images import CohortError


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("01", "1", "leading zeros"),
        ("12", "12.0", "a trailing .0"),
        ("12.", "12.0", "a trailing .0"),
        ("F1", "f1", "upper and lower case"),
        ("F01", "f1.0", "a trailing .0 and leading zeros and upper and lower case"),
        ("site1-007", "site1-7", "leading zeros"),
        ("00", "0", "leading zeros"),
    ],
)
def test_two_spellings_of_one_id(first, second, words):
    assert canonical(first) == canonical(second)
    assert difference(first, second) == difference(second, first) == words


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1", "10"),
        ("1.05", "1.5"),
        ("100", "1"),
        ("CC00754AN12", "CC00754BN12"),
        ("a0f", "af"),
        ("1", "1.5"),
        ("0", ""),
    ],
)
def test_other_ids_stay_apart(first, second):
    assert canonical(first) != canonical(second)


def test_many_pairs_are_counted_and_the_first_three_named():
    spellings = [(text, "here") for number in range(1, 6) for text in (f"{number}", f"0{number}")]
    with pytest.raises(CohortError, match="1 .here. and 01 .here. .*3 .here. and 03 .here. .*; and 2 others. Do this."):
        require_distinct(spellings, "infant", "Do this.")
    require_distinct([("1", "here"), ("1", "there"), ("2", "here")], "infant", "Do this.")
