"""Upload a cohort and read it back: same scans, bytes and predictions, and no scan is shared by mistake."""

import contextlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Nifti, Value, load_dataset
from datasets import config as datasets_config

from cohort import to_hub
from cohort.from_hub import open_cohort
from cohort.hub_access import is_hub_name
from cohort.painted import Settings, is_painted, paint_cohort
from cohort.phantom import generate_phantom_cohort, is_phantom, phantom_description
from cohort.scans import CohortError, find_scans
from tests.hub_server import Hub
from tests.programs import Program, run_program

ROOT = Path(__file__).parent.parent.parent
SMALL = "--fold 0 --image_size 16 --num_folds 2 --num_train_epochs 1 --per_device_train_batch_size 4 --init random"


READER = """
import sys
from cohort.from_hub import open_cohort
from cohort.scans import CohortError, find_scans
for name in sys.argv[1:]:
    try:
        opened = open_cohort(name)
        print(opened.source, opened.folder, len(find_scans(opened.folder)))
    except CohortError as error:
        print("refused:", error)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "phantom-dhcp"
    return generate_phantom_cohort(folder, preset="dhcp", num_subjects=8, voxel_size=5, num_workers=1, progress=False)


@pytest.fixture
def odd_cohort(tmp_path):
    """An unusual cohort: no masks, no sessions, families by name, a missing image, an unlabelled scan."""
    folder = tmp_path / "odd"
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))
    for anat, file in (
        ("sub-01/anat", "sub-01_T2w.nii"),
        ("sub-02/ses-a/anat", "sub-02_ses-a_acq-tse_T2w.nii.gz"),
        ("sub-02/ses-b/anat", "sub-02_ses-b_desc-restore_T2w.nii.gz"),
        ("sub-03/anat", "sub-03_T2w.nii.gz"),
    ):
        (folder / anat).mkdir(parents=True)
        nib.save(image, folder / anat / file)
    nib.save(image, folder / "sub-02/ses-a/anat/sub-02_ses-a_acq-tse_desc-bet_space-T2w_brainmask.nii.gz")
    (folder / "participants.tsv").write_text(
        "participant_id\tsession_id\tlabel\tradiology_score\tscan_age\tbirth_age\tfamily_id\tgender\tbirth_weight\n"
        "sub-01\t\t0\t\t38.1\t30.123456789\tsmith\tfemale\t1.1\n"
        "sub-02\tb\t1\t4\t41.7\t29\tsmith\tMale\t\n"
        "03\t\t\tQ\t\t\t\t\t\n"
        "04\t7\t1\t5\t40\t28\tjones\t\t\n"
    )
    return folder


def call(*arguments, module=to_hub):
    """Run the command in this process. Returns its exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def run(hub, home, *arguments, **environment):
    """Run a command of the project in a new process that knows only this Hub."""
    caches = {"HF_DATASETS_CACHE": str(home / "datasets")}
    settings = hub.environment(home) | caches | {"PYTHONPATH": str(ROOT)} | environment
    return run_program(arguments, home.parent, os.environ | settings)


def packed(cohort, output, *flags):
    result = call(cohort, "--output", output, *flags)
    assert result.code == 0, result.err
    return output


def without_paths(scans):
    return [replace(scan, image=None, mask=None, segmentation=None) for scan in scans]


def assert_same_files(ours, theirs, columns=("image", "mask", "segmentation")):
    for one, other in zip(ours, theirs, strict=True):
        for column in columns:
            path, copy = getattr(one, column), getattr(other, column)
            assert (path is None) == (copy is None), (one.participant_id, column)
            if path is not None:
                assert Path(path).name == Path(copy).name
                assert Path(path).read_bytes() == Path(copy).read_bytes()


@pytest.mark.parametrize("kind", ["tiny", "phantom", "odd"])
def test_a_round_trip_preserves_scans_and_bytes(kind, shared_tiny_cohort, phantom, odd_cohort, tmp_path, monkeypatch):
    cohort = {"tiny": shared_tiny_cohort, "phantom": phantom, "odd": odd_cohort}[kind]
    monkeypatch.setattr(to_hub, "SHARD_BYTES", 40_000)
    monkeypatch.setattr(to_hub, "GROUP_BYTES", 15_000)
    output = packed(cohort, tmp_path / "shared" / "name", *([] if kind == "phantom" else ["--license", "other"]))
    opened = open_cohort(str(output))
    before, after = find_scans(cohort), find_scans(opened.folder)
    assert without_paths(after) == without_paths(before)
    assert_same_files(before, after)
    assert opened.folder.name == "name" and opened.source == str(output)
    assert is_phantom(opened.folder) == (kind == "phantom")
    shards = sorted((output / "data").iterdir())
    assert kind == "odd" or len(shards) > 1
    assert not any("/" in image["path"] for image in pq.read_table(shards[0])["image"].to_pylist() if image)
    assert open_cohort(str(output)) == opened  # nothing is written again
    assert [s.status for s in before if kind == "odd"] in (
        [],
        ["used", "unlabelled", "used", "poor quality", "no image"],
    )


def test_a_phantom_keeps_its_ground_truth(phantom, tmp_path):
    folder = open_cohort(str(packed(phantom, tmp_path / "shared"))).folder
    assert phantom_description(folder) == phantom_description(phantom)
    assert (folder / "truth.tsv").read_bytes() == (phantom / "truth.tsv").read_bytes()
    lesions = sorted(path.relative_to(phantom) for path in phantom.rglob("*_desc-lesion_mask.nii.gz"))
    assert lesions and all((folder / p).read_bytes() == (phantom / p).read_bytes() for p in lesions)


def test_the_site_of_each_scan_is_included(odd_cohort, tmp_path):
    before = packed(odd_cohort, tmp_path / "before", "--license", "other")
    assert "site" not in pq.read_schema(*(before / "data").iterdir()).names
    table = odd_cohort / "participants.tsv"
    lines = table.read_text().splitlines()
    sites = ["site", "north", "St. Anna's, ward 3", "", "north"]
    table.write_text("".join(f"{line}\t{site}\n" for line, site in zip(lines, sites, strict=True)))
    output = packed(odd_cohort, tmp_path / "shared", "--license", "other")
    ours, theirs = find_scans(odd_cohort), find_scans(open_cohort(str(output)).folder)
    assert [scan.site for scan in theirs] == [scan.site for scan in ours]
    assert {scan.site for scan in theirs} == {"north", "St. Anna's, ward 3", ""}
    assert "| `site` |" in (output / "README.md").read_text() and "`site`" not in (before / "README.md").read_text()


def test_labels_from_a_separate_table_are_included(odd_cohort, tmp_path):
    labels = tmp_path / "mine.csv"
    labels.write_text("participant_id,session_id,label\n01,,1\n02,a,0\n")
    output = packed(odd_cohort, tmp_path / "shared", "--labels", labels, "--license", "other")
    ours, theirs = find_scans(odd_cohort, labels), find_scans(open_cohort(str(output)).folder)
    assert [(s.label, s.status, s.mask is None) for s in theirs] == [(s.label, s.status, s.mask is None) for s in ours]


def test_a_file_that_was_not_fetched_is_not_shared_in_place_of_the_image(odd_cohort, tmp_path):
    """The image of an excluded scan travels too: its pointer must not."""
    pointer = odd_cohort / "sub-03/anat/sub-03_T2w.nii.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    result = call(odd_cohort, "--output", tmp_path / "shared", "--license", "other")
    assert result.code == 1 and "git lfs pull" in result.err and not (tmp_path / "shared").exists()


def test_a_local_dataset_replaced_by_one_of_equal_size_and_time_is_unpacked_again(tmp_path):
    table, before = tmp_path / "made" / "t.parquet", None
    features = Features(participant_id=Value("string"), image=Nifti(), label=Value("int64"))
    for content in (b"first", b"other"):
        row = {"participant_id": "01", "image": {"bytes": content, "path": "a.nii"}, "label": 1}
        table.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row], schema=features.arrow_schema), table)
        if before is not None:  # as `cp -p` and archives do
            os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert (table.stat().st_size, table.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        before = table.stat()
        (image,) = open_cohort(str(tmp_path / "made")).folder.rglob("*_T2w.nii*")
        assert image.read_bytes() == content


def test_the_datasets_library_reads_the_files_as_nifti(shared_tiny_cohort, tmp_path):
    output = packed(shared_tiny_cohort, tmp_path / "shared", "--license", "cc-by-4.0")
    loaded = load_dataset(str(output), split="train", cache_dir=str(tmp_path / "loaded"))
    assert loaded.features["image"] == Nifti() and loaded.features["brain_mask"] == Nifti()
    assert loaded.features["label"].names == ["normal", "injury"]
    for row, scan in zip(loaded, find_scans(shared_tiny_cohort), strict=True):
        assert np.array_equal(row["image"].get_fdata(), nib.load(scan.image).get_fdata())
        assert (row["participant_id"], row["label"], row["birth_age"]) == (
            scan.participant_id,
            scan.label,
            scan.birth_age,
        )
        assert row["segmentation"] is None


def test_the_card_says_whether_the_cohort_is_synthetic(shared_tiny_cohort, phantom, tmp_path):
    human = (packed(shared_tiny_cohort, tmp_path / "a", "--license", "cc-by-4.0") / "README.md").read_text()
    synthetic = (packed(phantom, tmp_path / "b") / "README.md").read_text()
    assert "license: cc-by-4.0" in human and "synthetic: false" in human and "human infants" in human
    assert "| used injury | 6 |" in human and "| found | 12 |" in human
    assert "license: apache-2.0" in synthetic and "**Synthetic.**" in synthetic and "- synthetic" in synthetic
    for card in (human, synthetic):
        assert "CC0" not in card.replace("CC0-", "") and str(tmp_path) not in card and "/tmp" not in card


def test_a_painted_cohort_stays_one(phantom, tmp_path):
    settings = Settings(kinds=("cyst",), diameters=(14.0,), copies=1)
    painted = paint_cohort(phantom, tmp_path / "painted", settings=settings, num_workers=1, progress=False).folder
    assert call(painted, "--output", tmp_path / "refused").code == 2  # the licence of the source is not known
    card = (output := packed(painted, tmp_path / "shared", "--license", "other")) / "README.md"
    assert "**Painted injuries.**" in card.read_text() and "- painted-injuries" in card.read_text()
    copy = open_cohort(str(output)).folder
    assert is_painted(copy) and (copy / "lesions.tsv").read_bytes() == (painted / "lesions.tsv").read_bytes()
    assert [scan.label for scan in find_scans(copy)] == [scan.label for scan in find_scans(painted)]


def test_writing_again_gives_the_same_bytes_and_keeps_files_of_others(phantom, tmp_path):
    output = packed(phantom, tmp_path / "shared")
    first = {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    packed(phantom, output)
    assert {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()} == first
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    (output / "data" / "mine.parquet").write_text("x")
    result = call(phantom, "--output", output)
    assert result.code == 2 and "holds other files" in result.err and (output / "data" / "mine.parquet").is_file()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--repo_id ORG/NAME on the Hub, --output FOLDER, or both"),
        (["--repo_id", "lab/x"], "add --i_may_share_this"),
        (["--repo_id", "lab/x", "--i_may_share_this"], "add --license"),
        (["--output", "{tmp}/x"], "add --license"),
        (["--repo_id", "lab", "--i_may_share_this"], "give ORG/NAME"),
        (["--output", "{tmp}/x", "--public", "--license", "other"], "add --repo_id"),
        (["--output", "{tmp}/x", "--license", "other", "--labels", "{tmp}/no.csv"], "is not a file"),
    ],
)
def test_a_wrong_call_gives_one_sentence(flags, sentence, shared_tiny_cohort, tmp_path):
    result = call(shared_tiny_cohort, *[flag.format(tmp=tmp_path) for flag in flags])
    assert result.code == 2 and sentence in result.err
    assert not any(tmp_path.iterdir())


def test_datasets_that_are_not_cohorts_are_refused(tmp_path):
    features = Features(participant_id=Value("string"), image=Nifti(), label=Value("int64"))
    row = {"participant_id": "01", "image": {"bytes": b"x", "path": "a.nii"}, "label": 1}

    def refusal(name, table):
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "t.parquet")
        with pytest.raises(CohortError) as error:
            open_cohort(str(tmp_path / name))
        return str(error.value)

    def rows(*changes, schema=features.arrow_schema):
        return pa.Table.from_pylist([row | change for change in changes], schema=schema)

    assert "no column image" in refusal("a", rows({}).drop_columns("image"))
    assert "no column label, score_group or radiology_score" in refusal("b", rows({}).drop_columns("label"))
    assert "as the feature Nifti" in refusal("c", pa.table({"participant_id": ["1"], "image": ["x"], "label": [1]}))
    assert "two rows for sub-01" in refusal("d", rows({}, {}))
    assert "only letters, digits" in refusal("e", rows({"participant_id": "../../x"}))
    assert "not inside its Parquet files" in refusal("f", rows({"image": {"bytes": None, "path": "a.nii"}}))
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "t.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(CohortError, match="cannot be read"):
        open_cohort(str(tmp_path / "g"))
    assert not (tmp_path / "x").exists()
    assert not list((tmp_path / "cache").rglob("sub-*"))


def test_a_dataset_made_elsewhere_with_the_nifti_feature_is_read(shared_tiny_cohort, tmp_path):
    scans = find_scans(shared_tiny_cohort)
    content = [{"bytes": Path(scan.image).read_bytes(), "path": "../../evil.nii.gz"} for scan in scans]
    table = {"participant_id": [f"sub-{s.participant_id}" for s in scans], "score_group": ["ge3", "le2"] * 6}
    features = Features(participant_id=Value("string"), score_group=Value("string"), image=Nifti())
    (tmp_path / "theirs").mkdir()
    Dataset.from_dict(table | {"image": content}, features=features).to_parquet(tmp_path / "theirs" / "t.parquet")
    found = find_scans(open_cohort(str(tmp_path / "theirs")).folder)
    assert [scan.label for scan in found] == [1, 0] * 6 and len({scan.family for scan in found}) == 11
    assert_same_files(found, found, ("image",))
    assert Path(found[0].image).name == f"sub-{scans[0].participant_id}_desc-restore_T2w.nii.gz"


def test_hub_names_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab" / "here").mkdir(parents=True)
    assert is_hub_name("lab/cohort") and is_hub_name("lab/cohort@0123abc")
    for text in ("lab/here", "./lab/cohort", "/lab/cohort", "../cohort", "cohort", "a/b/c", "lab/", "~/cohort"):
        assert not is_hub_name(text), text


def predictions(folder):
    return pd.read_csv(folder / "fold-0" / "predictions.csv", dtype={"session_id": str})


def test_training_from_the_hub_equals_training_on_the_folder(shared_tiny_cohort, tmp_path):
    """Upload a cohort and train on it with an empty cache: same predictions as on the folder. Then resume offline."""
    home, train = tmp_path / "home", [ROOT / "train.py", *SMALL.split()]
    push = ["-m", "cohort.to_hub", shared_tiny_cohort, "--repo_id", "lab/cohort", "--license", "other"]
    with Hub() as hub:
        sent = run(hub, tmp_path / "sender", *push, "--i_may_share_this")
        assert sent.returncode == 0 and "private" in sent.stdout, sent.stderr
        assert hub.repositories["dataset", "lab/cohort"].private
        again = run(hub, tmp_path / "sender", *push, "--i_may_share_this")
        assert again.returncode == 0 and hub.count("PUT /lfs") == 1, again.stderr
        sha = hub.repositories["dataset", "lab/cohort"].find("main")["sha"]

        from_hub = run(hub, home, *train, "--data_dir", "lab/cohort")
        assert from_hub.returncode == 0, from_hub.stderr
    # the server has stopped: only the cache is left
    offline = run(hub, home, *train, "--data_dir", "lab/cohort", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and "fold 0: n" in offline.stdout, offline.stderr
    on_folder = run(hub, tmp_path / "other", *train, "--data_dir", shared_tiny_cohort, "--output_dir", tmp_path / "o")
    assert on_folder.returncode == 0, on_folder.stderr

    made = tmp_path / "runs" / "cohort-paper"
    pd.testing.assert_frame_equal(predictions(made), predictions(tmp_path / "o"), check_exact=True)
    recorded = json.loads((made / "environment.json").read_text())["source"]["data_dir"]
    assert recorded == f"lab/cohort@{sha}"
    unknown = run(hub, tmp_path / "third", "-c", READER, "lab/other")
    assert "refused" in unknown.stdout and "does not answer" in unknown.stdout, unknown.stderr


def test_concurrent_readers_revisions_and_refusals(phantom, tmp_path):
    """Two readers at once, pinned revisions, a phantom that needs no consent, and every refusal."""
    with Hub() as hub:
        push = ["-m", "cohort.to_hub", phantom, "--repo_id"]
        hub.fail("POST .*/commit/", "drop", 9)
        cut = run(hub, tmp_path / "w", *push, "lab/phantom")
        assert cut.returncode == 1 and len(cut.stderr.strip().splitlines()[-1]) < 300 and "Traceback" not in cut.stderr
        assert not [f for f in hub.files("lab/phantom", kind="dataset") if f.endswith(".parquet")]
        hub.failures.clear()
        sent = run(hub, tmp_path / "w", *push, "lab/phantom", "--public")
        assert sent.returncode == 0 and "stays private" in sent.stdout, sent.stderr
        assert hub.count("PUT /lfs") == 1  # files from the first attempt were not sent again
        hub.repositories["dataset", "lab/phantom"].private = False
        public = run(hub, tmp_path / "w", *push, "lab/phantom")
        assert public.returncode == 1 and "add --public" in public.stderr
        foreign = run(hub, tmp_path / "w", *push, "theirs/phantom")
        assert foreign.returncode == 1 and "may not write to the dataset theirs/phantom" in foreign.stderr
        token = run(hub, tmp_path / "w", *push, "lab/phantom", HF_TOKEN="hf_wrong")
        assert token.returncode == 1 and "does not know this token" in token.stderr

        sha = hub.repositories["dataset", "lab/phantom"].find("main")["sha"]
        hub.add("lab/text", {"README.md": b"#", "a.txt": b"x"}, kind="dataset")
        names = ["lab/phantom", f"lab/phantom@{sha}", "lab/phantom@gone", "lab/nothing", "lab/text"]
        home = tmp_path / "readers"
        settings = hub.environment(home) | {"HF_DATASETS_CACHE": str(home), "PYTHONPATH": str(ROOT)}
        readers = [Program(["-c", READER, *names], tmp_path, os.environ | settings) for _ in range(2)]
        assert [reader.wait() for reader in readers] == [0, 0]
        said = [reader.stdout.splitlines() for reader in readers]
    assert said[0] == said[1]
    first, pinned, gone, nothing, text = said[0]
    assert first == pinned and first.startswith(f"lab/phantom@{sha} ") and "/phantom " in first
    assert is_phantom(first.split()[1])
    assert "no revision gone" in gone and "no folder lab/nothing" in nothing and "no Parquet file" in text
    shutil.rmtree(home)
