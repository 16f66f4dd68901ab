"""Share a cohort as a dataset on the Hub:  python -m cohort.to_hub data/phantom-clear --repo_id ORG/NAME

The dataset has one row per session and contains the original files unchanged, inside Parquet files. `train.py
--data_dir ORG/NAME` trains on it. A new repository is private unless --public is given. Scans of human infants need
--i_may_share_this and --license. --output FOLDER keeps the dataset in a folder, which train.py also reads; it works
with or without an upload. Run the same command again to update the dataset or to continue after an interruption.
Exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("cohort.to_hub")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .generated import ROOT_FILES
from .hub_access import HUB_FAILURES, HUB_NAME, HubError, explain, require_token


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cohort.to_hub", description=__doc__.split("\n\n")[1])
    parser.add_argument("bids_folder", type=Path, help="the BIDS folder of the cohort, with sub-* folders")
    parser.add_argument("--repo_id", metavar="ORG/NAME", help="dataset repository to create or update")
    parser.add_argument("--labels", help="TSV or CSV of labels, if they are not in the BIDS folder")
    parser.add_argument(
        "--public", action="store_true", help="create a public repository, or update a public one (default: private)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep the dataset in this folder")
    parser.add_argument("--license", help="licence identifier of the Hub, such as cc-by-4.0 or other (default for "
                        "phantoms: apache-2.0)")  # fmt: skip
    parser.add_argument("--i_may_share_this", action="store_true", help="you have the right to share these scans")
    options = parser.parse_args(argv)
    if not options.repo_id and not options.output:
        parser.error("say where to write the dataset: --repo_id ORG/NAME on the Hub, --output FOLDER, or both")
    if options.repo_id and ((match := HUB_NAME.fullmatch(options.repo_id)) is None or match[3]):
        parser.error(f"--repo_id {options.repo_id} is not the name of a Hub repository: give ORG/NAME")
    if options.public and not options.repo_id:
        parser.error("--public applies to a repository: add --repo_id ORG/NAME")
    if not options.bids_folder.is_dir():
        parser.error(f"{options.bids_folder} is not a folder: give the BIDS folder of the cohort")
    if options.labels and not Path(options.labels).is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    if options.output and options.output.exists() and not _is_ours(options.output):
        parser.error(f"--output {options.output} holds other files: choose a new folder")
    from .phantom import phantom_description

    if phantom_description(options.bids_folder) is None:
        if options.repo_id and not options.i_may_share_this:
            parser.error(
                f"{options.bids_folder} is not a phantom, and this uploads the scans (with their file headers) and "
                "labels of every infant: if consent, ethics and the terms of the source allow it, add "
                "--i_may_share_this"
            )
        if not options.license:
            parser.error("the dataset card must name the licence of these scans: add --license, such as cc-by-4.0")
    return options


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or holds only files that `write_dataset` writes."""
    if not folder.is_dir():
        return False
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    ours = {"README.md", *ROOT_FILES}
    return all(file in ours or (file.startswith("data/train-") and file.endswith(".parquet")) for file in files)


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Nifti, Value
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from tqdm import tqdm

from machine.programs import run_program
from run_folder.files import replacing_folder, writing

from .dataset_card import render_dataset_card
from .from_hub import FILE_COLUMNS
from .images import not_fetched
from .painted import is_painted
from .phantom import phantom_description
from .scans import CohortError, Scan, find_scans, flow

SHARD_BYTES = 300_000_000  # size of the files in one Parquet file
GROUP_BYTES = 50_000_000  # size of the files in memory at a time
FEATURES = Features(
    participant_id=Value("string"),
    session_id=Value("string"),
    family_id=Value("string"),
    image=Nifti(),
    brain_mask=Nifti(),
    segmentation=Nifti(),
    label=ClassLabel(names=["normal", "injury"]),
    radiology_score=Value("string"),
    scan_age=Value("float64"),
    birth_age=Value("float64"),
    birth_weight=Value("float64"),
    sex=Value("string"),
    singleton=Value("string"),
    status=Value("string"),
)
SITE = Features(site=Value("string"))  # only if a scan has one
LESIONS = Features(lesion_mask=Nifti())  # only of phantoms and painted cohorts


def write_dataset(data_dir: Path, folder: Path, scans: list[Scan], repo_id: str, licence: str) -> None:
    """Write a cohort as a dataset folder: `data/*.parquet`, a card, and the files that mark a phantom if it is one.

    The same cohort gives the same bytes. Memory use does not grow with the cohort.

    Args:
        data_dir: the BIDS folder.
        folder: the folder to write to.
        scans: the scans of `data_dir` that become rows.
        repo_id: ORG/NAME, or another name for the dataset in its card.
        licence: a licence identifier of the Hub, such as `cc-by-4.0`.
    """
    phantom = phantom_description(data_dir)
    painted = is_painted(data_dir)
    sites = any(scan.site for scan in scans)
    features = Features(FEATURES | (SITE if sites else {}) | (LESIONS if phantom or painted else {}))
    (folder / "data").mkdir(parents=True)
    shards = list(_groups([(scan, _files(scan, features)) for scan in scans], SHARD_BYTES))
    with tqdm(total=len(scans), desc="packing", unit="scan") as progress:
        for number, shard in enumerate(shards):
            path = folder / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
            with pq.ParquetWriter(path, features.arrow_schema, use_dictionary=False) as writer:
                for group in _groups(shard, GROUP_BYTES):
                    rows = [_row(scan, files) for scan, files in group]
                    # not Dataset.from_list, which drops the bytes of a file if the current folder has one of that name
                    writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
                    progress.update(len(rows))
    for file in ROOT_FILES if phantom or painted else ():
        if (data_dir / file).is_file():
            shutil.copyfile(data_dir / file, folder / file)
    card = render_dataset_card(repo_id, licence, flow(scans), phantom, painted, sites)
    (folder / "README.md").write_text(card, encoding="utf-8")


def push_dataset(folder: Path, repo_id: str, *, public: bool) -> str:
    """Upload a dataset folder to a repository in one commit. Files that the Hub already has are not sent again.

    Returns:
        A sentence that says where the dataset is and who can read it.

    Raises:
        HubError: the Hub refused, or could not be reached.
    """
    api = HfApi()
    try:
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Upload the cohort",
            delete_patterns=["data/*.parquet", *ROOT_FILES],
        )
    except HUB_FAILURES as error:
        raise HubError(explain(error, repo_id, "dataset", upload=True)) from error
    visibility = "public" if public else "private: loading it needs access and `hf auth login`"
    return f"{constants.ENDPOINT}/datasets/{repo_id} is up to date (commit {done.oid[:8]}) and {visibility}."


def claim_repository(repo_id: str, *, public: bool) -> bool:
    """Create the repository, or check that it can be used, before the cohort is packed.

    Returns:
        Whether the repository is public.

    Raises:
        HubError: no token, no write access, no network, or the repository is public but `public` is False.
    """
    require_token()
    api = HfApi()
    try:
        try:
            private = api.repo_info(repo_id, repo_type="dataset").private
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type="dataset", private=not public)
            private = not public
    except HUB_FAILURES as error:
        raise HubError(explain(error, repo_id, "dataset", upload=True)) from error
    if not private and not public:
        raise HubError(f"{repo_id} already exists and is public: add --public, or choose another --repo_id.")
    if private and public:
        print(f"{repo_id} exists and stays private: you can change that on its settings page on the Hub.")
    return not private


def _files(scan: Scan, features: Features) -> dict[str, str | None]:
    """The paths of a scan's files by column."""
    files = {"image": scan.image, "brain_mask": scan.mask, "segmentation": scan.segmentation}
    if "lesion_mask" in features:
        stem = f"sub-{scan.participant_id}_ses-{scan.session_id}"
        lesions = Path(scan.image).with_name(f"{stem}_desc-lesion_mask.nii.gz") if scan.image else None
        files["lesion_mask"] = str(lesions) if lesions and lesions.is_file() else None
    return files


def _row(scan: Scan, files: dict[str, str | None]) -> dict[str, Any]:
    contents = {column: path and {"bytes": _read(path), "path": Path(path).name} for column, path in files.items()}
    values = {column: getattr(scan, column, None) for column in FEATURES | SITE if column not in FILE_COLUMNS}
    values["family_id"] = scan.family
    return {column: None if value == "" else value for column, value in values.items()} | contents


def _read(path: str) -> bytes:
    if problem := not_fetched(path):
        raise CohortError(problem)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CohortError(f"{path} cannot be read ({error.strerror}): restore it, or remove the session.") from error


def _groups(scans: list[tuple[Scan, dict]], limit: int) -> Iterator[list[tuple[Scan, dict]]]:
    """Split the scans, each with its files, into parts of at most `limit` bytes, but at least one scan."""
    part: list[tuple[Scan, dict]] = []
    size = 0
    for scan, files in scans:
        added = sum(os.path.getsize(path) for path in files.values() if path)
        if part and size + added > limit:
            yield part
            part, size = [], 0
        part.append((scan, files))
        size += added
    yield part


def main(argv: Sequence[str] | None = None) -> int:
    """Pack and share a cohort, and return the exit status."""
    options = parse_arguments(argv)
    return run_program("cohort.to_hub", lambda: _share(options), failed=(CohortError, HubError, OSError))


def _share(options: argparse.Namespace) -> None:
    """Pack a cohort as a dataset; keep it in `--output` and upload it to `--repo_id`, whichever are given."""
    scans = find_scans(options.bids_folder, options.labels)
    public = claim_repository(options.repo_id, public=options.public) if options.repo_id else False
    licence = options.license or "apache-2.0"
    if not options.output:
        cache = Path(datasets.config.HF_DATASETS_CACHE)  # not in /tmp, which may be in memory
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".to-hub-", dir=cache) as folder:
            with writing(folder):
                write_dataset(options.bids_folder, Path(folder), scans, options.repo_id, licence)
            print(push_dataset(Path(folder), options.repo_id, public=public))
        return
    output = options.output.absolute()
    with replacing_folder(output) as folder:
        write_dataset(options.bids_folder, folder, scans, options.repo_id or output.name, licence)
    print(f"{options.output}: {len(scans)} sessions")
    if options.repo_id:
        print(push_dataset(output, options.repo_id, public=public))


if __name__ == "__main__":
    sys.exit(main())
