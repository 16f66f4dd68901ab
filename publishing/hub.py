"""Upload models and Spaces to the Hub: one atomic commit per branch, and one sentence for each failure."""

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
from publishing.leaks import (
    LeakError,
    check_contents,
    check_text,
    converted_files,
    is_published_file,
    model_files,
    private_words,
)
from publishing.release import Release, prepare_releases
from publishing.space import is_space_file, space_files
from run_folder.files import InputError

TIMEOUT = 60  # seconds for one answer of the Hub; huggingface_hub itself would wait forever


class Upload(NamedTuple):
    """Files for one branch, by name: the path of a local file, or the content itself."""

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
    converted: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Upload models of a run. The visibility of an existing repository is not changed.

    Args:
        run, hub_model_id, what, fold: see `prepare_releases`.
        public: make a new repository public; otherwise it is private.
        commit_message: the default names what is published.
        converted: `onnx` or `openvino`: also send each model's converted file, see `converted_files`.
        say: called with one sentence per step.

    Raises:
        InputError: the run is incomplete or damaged.
        LeakError: a file would reveal who was scanned.
        HubError: the Hub refused or could not be reached.
    """
    releases = prepare_releases(run, hub_model_id, what, fold)
    words = private_words(run)
    uploads = [_upload(release, words, commit_message, converted) for release in releases]
    push(uploads, hub_model_id, public=public, is_ours=is_published_file, say=say)


def publish_space(
    space_id: str, hub_model_id: str, *, public: bool = False, say: Callable[[str], None] = print
) -> None:
    """Upload the web page as a Space that loads a model from the Hub. It contains nothing from a run.

    Raises:
        HubError: the Hub refused or could not be reached.
    """
    files = space_files(hub_model_id, title=space_id.split("/")[1])
    upload = Upload(files, "main", f"Serve {hub_model_id}")
    push([upload], space_id, public=public, repo_type="space", is_ours=is_space_file, say=say, space_sdk="gradio")


def publish_trained(run: Path, hub_model_id: str, what: str, fold: int | None) -> None:
    """Upload a model at the end of training.

    Raises:
        HubError: publishing failed for any reason. The run is complete; the message says how to publish it later.
    """
    try:
        publish_run(run, hub_model_id, what, fold)
    except (HubError, LeakError, InputError, OSError) as error:
        chosen = f"--what {what}" if fold is None else f"--fold {fold}"
        command = f"python publish.py {shlex.quote(str(run))} --hub_model_id {hub_model_id} {chosen}"
        raise HubError(f"{error} The trained run is kept. To publish it: {command}") from error


def _upload(release: Release, words: list[str], message: str | None, converted: str | None) -> Upload:
    files: dict[str, Path | bytes] = {**model_files(release.folder), "README.md": release.card.encode()}
    files |= converted_files(release.folder, converted) if converted else {}
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
    """Create the repository if needed, then make one commit per upload, or none if nothing has changed.

    LFS files that the Hub already has from an interrupted attempt are not sent again.

    Args:
        uploads: in the order of their commits, `main` first.
        repo_id: ORG/NAME.
        public: make a new repository public.
        repo_type: `model` or `space`.
        is_ours: whether a file with this name comes from an earlier upload. Such files are deleted if they are not part
            of this upload; all others stay.
        say: called with one sentence per step.
        **creation: more arguments for `HfApi.create_repo`, such as `space_sdk`.

    Raises:
        HubError: the Hub refused or could not be reached.
    """
    hub_logging.set_verbosity_error()  # the messages below say the same more clearly
    hooks = get_session().event_hooks  # those of huggingface_hub; one of them enforces HF_HUB_OFFLINE
    timeout = httpx2.Timeout(TIMEOUT, connect=10)
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
        say(f"{repo_id} is private: loading it needs access and `hf auth login`.")


def _open(api: HfApi, repo_id: str, repo_type: str, public: bool, say: Callable, creation: dict) -> bool:
    """Find or create the repository. Returns whether it is private."""
    try:
        private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        if public == private:
            visibility = "private" if private else "public"
            say(f"{repo_id} exists and stays {visibility}: you can change that on its settings page on the Hub.")
        return private
    except HfHubHTTPError as error:
        if not isinstance(error, RepositoryNotFoundError) and error.response.status_code != 404:
            raise
    api.create_repo(repo_id, repo_type=repo_type, private=not public, **creation)
    return not public


def _commit(api: HfApi, repo_id: str, repo_type: str, upload: Upload, is_ours: Callable, say: Callable) -> None:
    if upload.branch != "main":
        api.create_branch(repo_id, branch=upload.branch, repo_type=repo_type, exist_ok=True)
    current = api.repo_info(repo_id, repo_type=repo_type, revision=upload.branch)
    outdated = [f.rfilename for f in current.siblings if is_ours(f.rfilename) and f.rfilename not in upload.files]
    deleted = [CommitOperationDelete(name) for name in outdated]
    added = [CommitOperationAdd(name, content) for name, content in upload.files.items()]
    done = api.create_commit(
        repo_id, [*deleted, *added], commit_message=upload.message, repo_type=repo_type, revision=upload.branch
    )
    where = f"{repo_id}, branch {upload.branch}"
    if done.oid == current.sha:
        say(f"{where}: nothing has changed, so no commit was made.")
    else:
        say(f"{where}: {upload.message} ({len(upload.files)} files, commit {done.oid[:8]}) at {done.commit_url}")
