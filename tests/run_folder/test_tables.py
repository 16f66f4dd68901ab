"""Tables: identifiers stay text, numbers become numbers, and errors name the file and the problem."""

import numpy as np
import pytest

from run_folder.files import InputError
from run_folder.tables import read_table


def test_identifiers_stay_text_and_numbers_become_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("participant_id,session_id,age,group,score\n001,01,30.5,le2,1\n002,02,n/a,ge3,\n")
    table = read_table(path)
    assert table["participant_id"].tolist() == ["001", "002"] and table["session_id"].tolist() == ["01", "02"]
    assert table["age"].tolist()[0] == 30.5 and np.isnan(table["age"].tolist()[1])
    assert table["group"].tolist() == ["le2", "ge3"]  # one cell that is not a number keeps a column as text
    assert table["score"].tolist()[0] == 1 and np.isnan(table["score"].tolist()[1])


def test_every_cell_can_stay_as_written(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("\ufeffparticipant_id\tage\n001\t030\n", encoding="utf-8")  # with the mark Excel writes
    assert read_table(path, ("participant_id",), as_text=True).to_dict("records") == [
        {"participant_id": "001", "age": "030"}
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt"])
def test_the_header_shows_the_separator(tmp_path, separator, ending):
    path = tmp_path / f"table{ending}"
    path.write_text("participant_id,age\n001,30.5\n\n002,\n".replace(",", separator))
    table = read_table(path)
    assert table["participant_id"].tolist() == ["001", "002"] and table.index.tolist() == [0, 1]
    assert table["age"].tolist()[0] == 30.5 and np.isnan(table["age"].tolist()[1])


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("id;age;note\n1;30,5;a, b\n", [["1", "30.5", "a, b"]]),  # a decimal comma, as spreadsheets in Europe write it
        ("id,note; more,age\n1,a;b,3\n", [["1", "a;b", "3"]]),
        ('"id, or name";age\n"1;2";3\n', [["1;2", "3"]]),
        ('id\tnote\n1\t5" wide\n2\t"plain"\n', [["1", '5" wide'], ["2", "plain"]]),
        ("id,age,note\n1,3\n", [["1", "3", ""]]),  # a short row
        ("id\n1\n", [["1"]]),
    ],
)
def test_separators_in_cells_and_headers(tmp_path, content, rows):
    path = tmp_path / "table.csv"
    path.write_text(content)
    assert read_table(path, as_text=True).to_numpy().tolist() == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv is missing"),
        (b"", "table.csv is not a table"),
        (b"a,b\n1,2\n1,2,3\n", "table.csv is not a table"),
        (b"a,b\n1,2,\n3,4,\n", "table.csv is not a table"),  # pandas alone would read 1 and 3 as the index
        (b"a,b,a\n1,2,3\n", "more than one column a"),
        (b"a\n\xff\n", "table.csv is not a table"),
        (b"a,b\n1,2\n", "lacks the column\\(s\\) fold, label; it has a, b"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path, ("fold", "label"))
