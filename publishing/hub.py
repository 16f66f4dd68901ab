"""Sending a release to the Hub: one commit a branch, nothing half-published, every failure in one sentence."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from cohort.hub_access import HUB_FAILURES, HubError, explain, require_token
from publishing.leaks import LeakError, check_contents, check_text, is_model_file, model_files, private_words
from publishing.release import Release, prepare_releases
from publishing.space import is_space_file, space_files
from run_folder.files import InputError

PATIENCE = 60  # seconds for one answer of the Hub; without it, the library waits for ever


class Upload(NamedTuple):
    """Files on their way to one branch: local paths, or contents made for the occasion."""

    files: dict[str, Path | bytes]
    branch: str
    message: str


def publish_run(
    run: Path,
    hub_model_id: str,
    what: str = "best",
    fold: int | None = None,
    *,
    public: bool = False,
    commit_message: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Push models of a run; private unless the repository exists, whose visibility is left as it is.

    Args:
        run, hub_model_id, what, fold: see `prepare_releases`.
        public: create the repository for everybody to see.
        commit_message: in place of one that names the fold.
        say: receives a sentence about what happens.

    Raises:
        InputError: the run is partial or broken.
        LeakError: a file would give away who was scanned.
        HubError: the Hub refused or could not be reached.
    """
    releases = prepare_releases(run, hub_model_id, what, fold)
    words = private_words(run)
    uploads = [_upload(release, words, commit_message) for release in releases]
    push(uploads, hub_model_id, public=public, is_ours=is_model_file, say=say)


def publish_space(
    space_id: str, hub_model_id: str, *, public: bool = False, say: Callable[[str], None] = print
) -> None:
    """Deploy the page as a Space that loads a model of the Hub. Nothing of a run is in it.

    Raises:
        HubError: the Hub refused or could not be reached.
    """
    files = space_files(hub_model_id, title=space_id.split("/")[1])
    upload = Upload(files, "main", f"Serve {hub_model_id}")
    push([upload], space_id, public=public, repo_type="space", is_ours=is_space_file, say=say, space_sdk="gradio")


def publish_trained(run: Path, hub_model_id: str, what: str, fold: int | None) -> None:
    """Push at the end of training.

    Raises:
        HubError: it failed, whatever the reason; the run is complete, and the message says how to push it later.
    """
    try:
        publish_run(run, hub_model_id, what, fold)
    except (HubError, LeakError, InputError, OSError) as error:
        chosen = f"--what {what}" if fold is None else f"--fold {fold}"
        again = f"python publish.py {shlex.quote(str(run))} --hub_model_id {hub_model_id} {chosen}"
        raise HubError(f"{error} The trained run is kept; to publish it: {again}") from error


def _upload(release: Release, words: list[str], message: str | None) -> Upload:
    files: dict[str, Path | bytes] = {**model_files(release.folder), "README.md": release.card.encode()}
    message = message or f"Publish {release.title}"
    check_text("The commit message", message, words)
    check_contents(files, words)
    return Upload(files, release.branch, message)


def push(
    uploads: list[Upload],
    repo_id: str,
    *,
    public: bool = False,
    repo_type: str = "model",
    is_ours: Callable[[str], bool] = lambda name: False,
    say: Callable[[str], None] = print,
    **creation,
) -> None:
    """Create the repository if need be, then make each upload one commit, or none where nothing changed.

    LFS files that the Hub has from an interrupted attempt are not sent again.

    Args:
        uploads: in this order; `main` first.
        repo_id: ORG/NAME.
        public: of a new repository.
        repo_type: `model` or `space`.
        is_ours: files of an earlier upload by name; those that are gone now are deleted, all others stay.
        **creation: for `HfApi.create_repo`, such as `space_sdk`.

    Raises:
        HubError: the Hub refused or could not be reached.
    """
    hub_logging.set_verbosity_error()  # its warnings are said better here
    hooks = get_session().event_hooks  # the library's own: they keep HF_HUB_OFFLINE working
    timeout = httpx2.Timeout(PATIENCE, connect=10)
    set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=timeout))
    api = HfApi(token=require_token())
    try:
        api.whoami()
        private = _open(api, repo_id, repo_type, public, say, creation)
        for upload in uploads:
            _commit(api, repo_id, repo_type, upload, is_ours, say)
    except HUB_FAILURES as error:
        raise HubError(explain(error, repo_id, repo_type, upload=True)) from error
    if private:
        say(f"{repo_id} is private: whoever loads it needs access and `hf auth login`.")


def _open(api: HfApi, repo_id: str, repo_type: str, public: bool, say: Callable, creation: dict) -> bool:
    """Find or create the repository; whether it is private."""
    try:
        private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        kept = "private" if private else "public"
        if public == private:
            say(f"{repo_id} exists and stays {kept}: its settings page on the Hub can change that.")
        return private
    except HfHubHTTPError as error:
        if not isinstance(error, RepositoryNotFoundError) and error.response.status_code != 404:
            raise
    api.create_repo(repo_id, repo_type=repo_type, private=not public, **creation)
    return not public


def _commit(api: HfApi, repo_id: str, repo_type: str, upload: Upload, is_ours: Callable, say: Callable) -> None:
    if upload.branch != "main":
        api.create_branch(repo_id, branch=upload.branch, repo_type=repo_type, exist_ok=True)
    there = api.repo_info(repo_id, repo_type=repo_type, revision=upload.branch)
    gone = [f.rfilename for f in there.siblings if is_ours(f.rfilename) and f.rfilename not in upload.files]
    operations = [CommitOperationDelete(name) for name in gone]
    operations += [CommitOperationAdd(name, content) for name, content in upload.files.items()]
    done = api.create_commit(
        repo_id, operations, commit_message=upload.message, repo_type=repo_type, revision=upload.branch
    )
    where = f"{repo_id}, branch {upload.branch}"
    if done.oid == there.sha:
        say(f"{where}: nothing has changed, no commit was made.")
    else:
        say(f"{where}: {upload.message} ({len(upload.files)} files, commit {done.oid[:8]}) at {done.commit_url}")
