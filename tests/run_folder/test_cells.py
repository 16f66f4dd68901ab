"""Cells that a spreadsheet would run as formulas."""

import csv
import itertools
import math

import pandas as pd
import pytest

from cohort.scans import Scan, read_cohort, write_cohort
from run_folder.cells import quoted, unquoted
from run_folder.files import write_text
from run_folder.tables import csv_text, read_table
from screening.many_scans import COLUMNS, write_table

DANGEROUS = (  # from OWASP's page on CSV injection
    *(
        '=HYPERLINK("http://127.0.0.1";"x")',
        "+1+1",
        "-2+3",
        "@SUM(1+1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "＝1+1",
        "－1－1",
    ),
    *("=cmd|' /C calc'!A0", "name;=1+1", "two\nlines", "two\n=1+1"),
)


@pytest.mark.parametrize("cell", DANGEROUS)
def test_a_formula_gets_an_apostrophe_which_reading_removes(cell):
    if cell != "two\nlines":
        assert quoted(cell) != cell
    for part in quoted(cell).replace("\r", ";").replace("\n", ";").replace("\t", ";").split(";"):
        assert not part.startswith(("=", "+", "-", "@", "＝", "－"))
    assert unquoted(quoted(cell)) == cell and unquoted(quoted(quoted(cell))) == quoted(cell)


@pytest.mark.parametrize(
    "cell", ["", "-0.5", "+3", "1e-05", "-.5", "-1e+30", "sub-7", "a = b", "O'Neil", "'quote'", "x@y"]
)
def test_numbers_and_ordinary_text_stay_as_they_are(cell):
    assert quoted(cell) == cell == unquoted(cell)


def test_every_short_text_comes_back():
    for length in range(6):
        for letters in itertools.product("=-'a;\n1.", repeat=length):
            text = "".join(letters)
            assert unquoted(quoted(text)) == text


def test_a_table_of_names_comes_back_and_numbers_keep_their_digits(tmp_path):
    names = [*DANGEROUS, "-7", "'=x", "plain"]
    table = pd.DataFrame({"participant_id": names, "value": [-0.5, math.nan, *range(len(names) - 2)]})
    path = write_text(tmp_path / "table.csv", csv_text(table))
    with open(path, newline="", encoding="utf-8") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert all(cell == "-7" or cell[:1] not in tuple("=+-@\t\r\n＝＋－＠") for cell in cells)
    read = read_table(path)
    assert read["participant_id"].tolist() == names
    assert read["value"].tolist()[0] == -0.5 and "-0.5\n" in path.read_text(encoding="utf-8")


def test_a_table_without_formulas_is_written_as_pandas_writes_it():
    table = pd.DataFrame(
        {"id": ["001", "b,c", None], "n": [1, None, 3], "x": pd.Series([1, None, "a-b"], dtype=object)}
    )
    assert csv_text(table) == table.to_csv(index=False)


def test_the_tables_of_a_cohort_and_of_screening_hold_no_formula(tmp_path):
    scan = Scan(**dict.fromkeys(Scan.__dataclass_fields__) | {
        "participant_id": "-1x", "session_id": "+2x", "family": "@f", "status": "used", "label": 1, "sex": "",
        "radiology_score": "3", "image": "=1+1/scan.nii", "reason": "", "singleton": "", "birth_age": -0.5,
        "site": "", "channels": (),
    })  # fmt: skip
    write_cohort([scan], tmp_path / "cohort.csv")
    line = (tmp_path / "cohort.csv").read_text().splitlines()[1]
    assert not any(cell.startswith(("=", "+", "@", "-1")) for cell in line.split(",")) and ",-0.5," in line
    assert read_cohort(tmp_path / "cohort.csv") == [scan]

    row = dict.fromkeys(COLUMNS, "") | {
        "scan": "=1+1.nii",
        "p_injury": "0.25",
        "status": "ok",
        "predicted_label": "normal",
    }
    write_table([row], tmp_path / "predictions.csv", total=1)
    assert "\n'=1+1.nii,0.25,," in (tmp_path / "predictions.csv").read_text()
    assert read_table(tmp_path / "predictions.csv")["scan"].tolist() == ["=1+1.nii"]
