"""Share a cohort as a dataset of the Hub:  python -m cohort.to_hub data/phantom-clear --repo_id ORG/NAME

The files travel byte for byte inside Parquet, one row a session; `train.py --data_dir ORG/NAME` trains from it. Private
unless --public. Scans of human infants need --i_may_share_this and --license. --output FOLDER keeps the dataset in a
folder, which train.py reads as well, with or without sending it. The same command run again goes on, or updates.
Exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Nifti, Value
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from tqdm import tqdm

from .dataset_card import render_dataset_card
from .from_hub import FILE_COLUMNS, HUB_NAME, ROOT_FILES
from .phantom import phantom_description
from .scans import CohortError, Scan, find_scans, flow

SHARD_BYTES = 300_000_000  # of files in one Parquet file
GROUP_BYTES = 50_000_000  # of files in memory at a time
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
PHANTOM_FEATURES = Features(FEATURES | {"lesion_mask": Nifti()})


class HubError(Exception):
    """The Hub did not take what was sent. The message is one sentence; nothing was half-published."""


def write_dataset(data_dir: Path, folder: Path, scans: list[Scan], repo_id: str, licence: str) -> None:
    """Write a cohort as a dataset folder: `data/*.parquet` and a card, and for a phantom what marks it as one.

    The same cohort gives the same bytes. Memory does not grow with the cohort.

    Args:
        data_dir: the BIDS folder.
        folder: to be created.
        scans: of `data_dir`, all that are to be rows.
        repo_id: ORG/NAME, or what else to call the dataset in its card.
        licence: an identifier of the Hub.
    """
    phantom = phantom_description(data_dir)
    features = PHANTOM_FEATURES if phantom else FEATURES
    (folder / "data").mkdir(parents=True)
    shards = list(_groups([(scan, _files(scan, features)) for scan in scans], SHARD_BYTES))
    with tqdm(total=len(scans), desc="packing", unit="scan") as progress:
        for number, shard in enumerate(shards):
            path = folder / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
            with pq.ParquetWriter(path, features.arrow_schema, use_dictionary=False) as writer:
                for group in _groups(shard, GROUP_BYTES):
                    rows = [_row(scan, files) for scan, files in group]
                    # not Dataset.from_list: it drops the bytes of a file whose name is also one in the current folder
                    writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
                    progress.update(len(rows))
    for file in ROOT_FILES if phantom else ():
        if (data_dir / file).is_file():
            shutil.copyfile(data_dir / file, folder / file)
    card = render_dataset_card(repo_id, licence, flow(scans), phantom)
    (folder / "README.md").write_text(card, encoding="utf-8")


def push_dataset(folder: Path, repo_id: str, *, public: bool) -> str:
    """Make a dataset folder the content of a repository in one commit; files that the Hub has are not sent again.

    Returns:
        A sentence on what is there now.

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
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(_refusal(error, repo_id)) from error
    private = "public" if public else "private: whoever loads it needs access and `hf auth login`"
    return f"{constants.ENDPOINT}/datasets/{repo_id} is there, commit {done.oid[:8]}, {private}."


def claim_repository(repo_id: str, *, public: bool) -> bool:
    """Create the repository, or see that it may be used, before the work of packing; whether it is public.

    Raises:
        HubError: no token, no rights, no network, or the repository is public and `public` was not asked for.
    """
    if get_token() is None:
        raise HubError("There is no Hub token on this machine: run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    try:
        try:
            private = api.repo_info(repo_id, repo_type="dataset").private
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type="dataset", private=not public)
            private = not public
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(_refusal(error, repo_id)) from error
    if not private and not public:
        raise HubError(f"{repo_id} is there already and is public: add --public, or choose another --repo_id.")
    if private and public:
        print(f"{repo_id} is there already and stays private: its settings page on the Hub can change that.")
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
    said = {column: getattr(scan, column, None) for column in FEATURES if column not in FILE_COLUMNS}
    said["family_id"] = scan.family
    return {column: None if value == "" else value for column, value in said.items()} | contents


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CohortError(f"{path} cannot be read ({error.strerror}): restore it, or remove the session.") from error


def _groups(scans: list[tuple[Scan, dict]], limit: int) -> Iterator[list[tuple[Scan, dict]]]:
    """The scans in parts of files of no more than so many bytes, at least one a part."""
    part, size = [], 0
    for scan, files in scans:
        added = sum(os.path.getsize(path) for path in files.values() if path)
        if part and size + added > limit:
            yield part
            part, size = [], 0
        part.append((scan, files))
        size += added
    yield part


def _refusal(error: BaseException, repo_id: str) -> str:
    """One sentence: what the Hub said, and what to do."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # an upload hides its reason
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids the network: unset it to upload."
    if isinstance(error, httpx2.TransportError):
        return f"{constants.ENDPOINT} does not answer: repeat the command with network; what was sent is kept."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return (
            "The Hub does not know this token: run `hf auth login`, and see that HF_TOKEN, if set, is not an old one."
        )
    if status == 409:
        return f"{repo_id} is taken by a repository that is no dataset of yours: choose another --repo_id."
    if status in (403, 404):
        return (
            f"This token may not write to the dataset {repo_id}: use a token with write access, or a name under your "
            "own account or an organisation that lets you."
        )
    reason = " ".join(str(getattr(error, "server_message", None) or error).split())
    return f"The Hub did not take {repo_id} ({reason}): run the same command again to go on."


def _keep(dataset: Path, output: Path) -> None:
    """Put a finished dataset folder in its place, in exchange for what an earlier call left there."""
    old = dataset.with_name("old")
    if output.exists():
        output.rename(old)
    dataset.rename(output)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or holds what `write_dataset` writes and nothing else."""
    if not folder.is_dir():
        return False
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    ours = {"README.md", *ROOT_FILES}
    return all(file in ours or (file.startswith("data/train-") and file.endswith(".parquet")) for file in files)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cohort.to_hub", description=__doc__.split("\n\n")[1])
    parser.add_argument("bids_folder", type=Path, help="the cohort, with sub-* folders")
    parser.add_argument("--repo_id", metavar="ORG/NAME", help="dataset repository to create or update")
    parser.add_argument("--labels", help="TSV or CSV of labels, if they are not in the BIDS folder")
    parser.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep the dataset in this folder")
    parser.add_argument("--license", help="identifier of the licence on the Hub, as cc-by-4.0 or other; apache-2.0 for "
                        "phantoms")  # fmt: skip
    parser.add_argument("--i_may_share_this", action="store_true", help="you have the right to share these scans")
    options = parser.parse_args(arguments)
    if not options.repo_id and not options.output:
        parser.error("say where the dataset goes: --repo_id ORG/NAME on the Hub, --output FOLDER, or both")
    if options.repo_id and ((match := HUB_NAME.fullmatch(options.repo_id)) is None or match[3]):
        parser.error(f"--repo_id {options.repo_id} is no name of a Hub repository: give ORG/NAME")
    if options.public and not options.repo_id:
        parser.error("--public speaks of a repository: add --repo_id ORG/NAME")
    if not options.bids_folder.is_dir():
        parser.error(f"{options.bids_folder} is not a folder: give the BIDS folder of the cohort")
    if options.labels and not Path(options.labels).is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    if options.output and options.output.exists() and not _is_ours(options.output):
        parser.error(f"--output {options.output} holds something else: choose a new folder")
    if phantom_description(options.bids_folder) is None:
        if options.repo_id and not options.i_may_share_this:
            parser.error(
                f"{options.bids_folder} is not a phantom, and this uploads the scans and labels of each infant, file "
                "headers included: if consent, ethics and the terms of the source allow it, add --i_may_share_this"
            )
        if not options.license:
            parser.error("the card needs the licence under which these scans are shared: add --license, as cc-by-4.0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parse(arguments)
    try:
        scans = find_scans(options.bids_folder, options.labels)
        public = claim_repository(options.repo_id, public=options.public) if options.repo_id else False
        # beside the folder it becomes, else in the cache: a folder for temporary files may be in memory
        beside = options.output.absolute().parent if options.output else Path(datasets.config.HF_DATASETS_CACHE)
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".to-hub-", dir=beside) as temporary:
            dataset = Path(temporary) / "dataset"
            name = options.repo_id or options.output.absolute().name
            write_dataset(options.bids_folder, dataset, scans, name, options.license or "apache-2.0")
            if options.output:
                _keep(dataset, options.output.absolute())
                dataset = options.output
                print(f"{options.output}: {len(scans)} sessions")
            if options.repo_id:
                print(push_dataset(dataset, options.repo_id, public=public))
    except (CohortError, HubError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
