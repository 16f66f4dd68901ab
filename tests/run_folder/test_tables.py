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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv is missing"),
        (b"", "table.csv is not a readable table"),
        (b"a,b\n1,2\n1,2,3\n", "table.csv is not a readable table"),
        (b"a\n\xff\n", "table.csv is not a readable table"),
        (b"a,b\n1,2\n", "lacks the column\\(s\\) fold, label; it has a, b"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path, ("fold", "label"))
