"""Files are replaced whole or not at all, and JSON and YAML errors name the file and the problem."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from run_folder import files
from run_folder.files import (
    InputError,
    WriteError,
    read_json,
    read_yaml,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)
from run_folder.tables import read_cells


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(content)


def test_a_file_is_replaced_and_its_folder_created(tmp_path):
    path = tmp_path / "new" / "table.csv"
    assert write_text(path, "old\n") == path
    write_text(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n" and names(path.parent) == ["table.csv"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = write_text(tmp_path / "table.csv", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["table.csv"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = write_text(tmp_path / "table.csv", "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new"


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_replaced_whole(tmp_path, exists):
    folder = tmp_path / "model"
    if exists:
        fill(folder, "old")
        (folder / "left over").touch()
    with replacing_folder(folder) as temporary:
        assert names(temporary) == []
        fill(temporary, "new")
        assert folder.exists() == exists
    assert names(tmp_path) == ["model"] and names(folder) == ["weights"]
    assert (folder / "weights").read_text() == "new"


@pytest.mark.parametrize("exists", [False, True])
def test_an_error_while_filling_keeps_the_old_folder(tmp_path, exists):
    folder = tmp_path / "model"
    if exists:
        fill(folder, "old")
    with pytest.raises(RuntimeError), replacing_folder(folder) as temporary:
        fill(temporary, "half of the new")
        raise RuntimeError
    assert names(tmp_path) == (["model"] if exists else [])
    assert not exists or (folder / "weights").read_text() == "old"


def test_a_folder_whose_writer_was_killed_while_filling_is_written_again(tmp_path):
    folder = tmp_path / "model"
    fill(folder, "old")
    fill(tmp_path / ".model.partial", "half of the new")
    with replacing_folder(folder) as temporary:
        assert names(temporary) == []
        fill(temporary, "new")
    assert names(tmp_path) == ["model"] and (folder / "weights").read_text() == "new"


def test_a_folder_whose_writer_was_killed_between_its_two_renames_is_restored(tmp_path):
    # The killed writer had moved the old folder away and not yet moved the new one in.
    folder = tmp_path / "model"
    fill(tmp_path / ".model.retired", "old")
    fill(tmp_path / ".model.partial", "new")
    with pytest.raises(RuntimeError), replacing_folder(folder):
        assert (folder / "weights").read_text() == "old"
        raise RuntimeError
    assert names(tmp_path) == ["model"] and (folder / "weights").read_text() == "old"


def test_a_folder_whose_writer_was_killed_after_its_renames_stays(tmp_path):
    folder = tmp_path / "model"
    fill(folder, "new")
    fill(tmp_path / ".model.retired", "old")
    with pytest.raises(RuntimeError), replacing_folder(folder):
        raise RuntimeError
    assert names(tmp_path) == ["model"] and (folder / "weights").read_text() == "new"


def test_two_processes_do_not_fill_one_folder(tmp_path):
    folder = tmp_path / "model"
    with replacing_folder(folder) as temporary:
        fill(temporary, "first")
        command = "import sys; from run_folder.files import replacing_folder\nwith replacing_folder(sys.argv[1]): pass"
        second = subprocess.run(
            [sys.executable, "-c", command, folder],
            cwd=Path(files.__file__).parent.parent,
            capture_output=True,
            text=True,
        )
        assert f"{folder} is being written by another process: wait until it has ended." in second.stderr
        assert (temporary / "weights").read_text() == "first"
    assert names(tmp_path) == ["model"] and (folder / "weights").read_text() == "first"


@pytest.fixture
def no_room():
    """The system refuses writes beyond 64 kB of a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save(torch.zeros(100_000), path),
        lambda path: save_file({"x": np.zeros(100_000)}, path),
        lambda path: Path("/dev/full").write_bytes(b"x"),
    ],
    ids=["torch", "safetensors", "system"],
)
def test_a_failed_write_of_any_library_is_one_sentence(tmp_path, no_room, save):
    fill(tmp_path / "model", "old")
    with pytest.raises(WriteError) as error, replacing_folder(tmp_path / "model") as folder:
        save(folder / "weights")
    assert str(error.value).startswith(f"{tmp_path / 'model'} could not be written: ")
    assert "Free some space, then run the same command again." in str(error.value)
    with pytest.raises(WriteError), replacing(tmp_path / "file") as file:
        save(file)
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "weights").read_text() == "old"


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("shapes differ"), KeyboardInterrupt()])
def test_other_errors_while_writing_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, replacing(tmp_path / "file"):
        raise error
    assert raised.value is error


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"auc": None, "n": 3, "names": ["a", "b"]}
    path = write_json(tmp_path / "metrics.json", content)
    assert read_json(path) == content
    assert path.read_text().startswith('{\n  "auc": null,') and path.read_text().endswith("}\n")


def test_json_with_nan_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"auc": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "metrics.json is missing"),
        (b'{"n": 3, ', "metrics.json is not valid JSON .* cut short"),
        (b"[1, 2]", "must hold a JSON object, found list"),
        (b'{"n": "\xff"}', "metrics.json is not valid JSON .* damaged"),
        (b'{"n": ' + b"[" * 100_000, "metrics.json is not valid JSON .*recursion"),
        (b'{"n": ' + b"[" * 60 + b"]" * 60 + b"}", "metrics.json has more than 50 levels"),
        (b'{"n": "' + b"x" * 2**24 + b'"}', "metrics.json has 16777225 bytes, and at most 16777216 are read"),
        (b'{"n": [NaN]}', "metrics.json holds the number nan"),
        (b'{"n": {"m": 1e999}}', "metrics.json holds the number inf"),
        (b'{"n": ' + b"9" * 30 + b"}", "metrics.json holds an integer of 100 bits"),
        (b'{"n": ' + b"9" * 5000 + b"}", "metrics.json is not valid JSON"),
    ],
)
def test_broken_json_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_yaml_settings(tmp_path):
    path = write_text(tmp_path / "recipe.yaml", "num_folds: 5\nselection: inner\n")
    assert read_yaml(path) == {"num_folds": 5, "selection": "inner"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "recipe.yaml is missing"),
        (b"a: [1", "recipe.yaml is not valid YAML .* correct it"),
        (b"- 1\n- 2\n", "must hold `name: value` lines, found list"),
        (b"", "must hold `name: value` lines, found NoneType"),
        (b"a: \xff", "recipe.yaml is not valid YAML .* damaged"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "recipe.yaml is not valid YAML ..a is an alias"),
        (b"a: 1\nb: 2\na: 3\n", "recipe.yaml is not valid YAML .a is there twice"),
        (b"a: {b: 1, b: 2}\n", "recipe.yaml is not valid YAML .b is there twice"),
        (b"1: 2\n", "recipe.yaml is not valid YAML .a name is not text"),
        (b"? [a]\n: 2\n", "recipe.yaml is not valid YAML .a name is not text"),
        (b"a: " + b"[" * 2_000, "recipe.yaml is not valid YAML .*recursion"),
        (b"a: " + b"[" * 60 + b"]" * 60, "recipe.yaml has more than 50 levels"),
        (b"a: " + b"x" * 2**14, "recipe.yaml has 16387 bytes"),
        (b"a: .nan\n", "recipe.yaml holds the number nan"),
        (b"a: !!int ''\n", "recipe.yaml is not valid YAML"),
        (b"a: 2001-99-99\n", "recipe.yaml is not valid YAML"),
        (b"a: !!python/object/apply:os.system [true]\n", "recipe.yaml is not valid YAML"),
    ],
)
def test_broken_yaml_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "loop", "queue", "device"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "metrics.json"
    {
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path.name),
        "queue": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    for read in (read_json, read_yaml, read_cells):
        with pytest.raises(InputError, match="metrics.json is not a file"):
            read(path)


def test_what_killed_writers_left_is_removed_and_what_others_write_stays(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, alive, other = (tmp_path / name for name in (f".a.csv.{ended.pid}.part", ".a.csv.1.part", ".b.csv.99.part"))
    for path in (dead, alive, other):
        path.write_text("half")
    write_text(tmp_path / "a.csv", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, tmp_path / "a.csv"])
