"""Access to the Hugging Face Hub: repository names, the token, and one sentence for every way a request can fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?", re.ASCII)
HUB_FAILURES = (httpx2.HTTPError, OSError, ValueError, RuntimeError)  # what huggingface_hub raises if a request fails

_NOT_READABLE = (
    "There is no folder {repo_id}, and no {repo_type} {repo_id} on {hub} that you may read: check the name, and run "
    "`hf auth login` (or set HF_TOKEN) if the {repo_type} is private."
)
_NOT_WRITABLE = (
    "This token may not write to the {repo_type} {repo_id}: use a token with write access, or a name under your own "
    "account or an organisation that lets you write."
)
_NOT_CACHED = (
    "There is no folder {repo_id}, and no complete copy of the {repo_type} {repo_id} in the cache, and {why}: check "
    "the path, or try again with a network connection."
)
_DOWNLOAD_FAILED = "The {repo_type} {repo_id} could not be downloaded ({reason}): run the same command again."
_BUSY = "The Hub is busy or out of order ({reason}): try again later."


class _Refusal(NamedTuple):
    """What to tell the user if a download fails for some reason, and if an upload does."""

    download: str
    upload: str


_REFUSALS = {
    "offline": _Refusal(
        _NOT_CACHED.replace("{why}", "HF_HUB_OFFLINE is set"),
        "HF_HUB_OFFLINE is set, which forbids network access: unset it to upload.",
    ),
    "unreachable": _Refusal(
        _NOT_CACHED.replace("{why}", "{hub} does not answer"),
        "The Hub cannot be reached at {hub} ({reason}): check the network and try again; files that were sent already "
        "are not sent again.",
    ),
    "gated": _Refusal(
        "The {repo_type} {repo_id} is gated: request access at {page}, then run `hf auth login`.",
        _NOT_WRITABLE,
    ),
    "no revision": _Refusal(
        "The {repo_type} {repo_id} has no revision {revision}: leave it out to get the newest.",
        _NOT_WRITABLE,
    ),
    "unknown token": _Refusal(
        _NOT_READABLE,
        "The Hub does not know this token: run `hf auth login` with a token that may write, and check HF_TOKEN, which "
        "is used first if it is set.",
    ),
    "not allowed": _Refusal(_NOT_READABLE, _NOT_WRITABLE),
    "payment": _Refusal(
        _DOWNLOAD_FAILED,
        "The Hub asks for a paid plan for {repo_id}: choose another kind of {repo_type} or another account.",
    ),
    "conflict": _Refusal(
        _DOWNLOAD_FAILED,
        "The Hub reports a conflict for {repo_id} ({reason}): choose another name if this one is not a {repo_type} of "
        "yours, otherwise try again.",
    ),
    "busy": _Refusal(_BUSY, _BUSY),
    "other": _Refusal(_DOWNLOAD_FAILED, "The upload to {repo_id} failed ({reason}): correct this and try again."),
}
_STATUSES = {401: "unknown token", 402: "payment", 403: "not allowed", 404: "not allowed", 409: "conflict"}
_STATUSES |= {408: "busy", 429: "busy"}


class HubError(Exception):
    """The Hub refused an upload or could not be reached. The message is one sentence that says what to do."""


def is_hub_name(text: str) -> bool:
    """Whether a text can be a dataset on the Hub, ORG/NAME or ORG/NAME@REVISION, and is not an existing path."""
    return HUB_NAME.fullmatch(text) is not None and not Path(text).exists()


def hub_name(text: str) -> str:
    """Check that a text is a repository name, ORG/NAME, and return it.

    Raises:
        ValueError: it is not.
    """
    try:
        validate_repo_id(text)
        if text.count("/") != 1:
            raise HFValidationError("it has no organisation or user before a slash")
    except HFValidationError as error:
        raise ValueError(
            f"{text!r} is not the name of a Hub repository: give ORG/NAME, such as lab/gloresnet."
        ) from error
    return text


def require_token() -> str:
    """The user's Hub token.

    Raises:
        HubError: there is none. Call this before hours of work, not after.
    """
    if (token := get_token()) is None:
        raise HubError("There is no Hub token on this machine: run `hf auth login`, or set HF_TOKEN.")
    return token


def explain(
    error: BaseException, repo_id: str, repo_type: str, *, upload: bool = False, revision: str | None = None
) -> str:
    """Turn one of `HUB_FAILURES` into one sentence: what went wrong, and what to do.

    Args:
        error: as caught.
        repo_id: ORG/NAME.
        repo_type: `model`, `dataset` or `space`.
        upload: whether something was sent; otherwise it was a download.
        revision: what was to be downloaded, None for the newest.
    """
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # huggingface_hub wraps failed LFS uploads
        error = error.__cause__
    refusal = _REFUSALS[_kind(error)]
    return (refusal.upload if upload else refusal.download).format(
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        hub=constants.ENDPOINT,
        page=f"{constants.ENDPOINT}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}",
        reason=_reason(error),
    )


def _kind(error: BaseException) -> str:
    """The key of `_REFUSALS` for an error."""
    if isinstance(error, OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, LocalEntryNotFoundError):  # not in the cache, and the Hub was not asked or did not answer
        return "offline" if constants.HF_HUB_OFFLINE else "unreachable"
    if isinstance(error, httpx2.TransportError):
        return "unreachable"
    if isinstance(error, GatedRepoError):
        return "gated"
    if isinstance(error, RevisionNotFoundError):
        return "no revision"
    status = _status(error)
    return "other" if status is None else _STATUSES.get(status, "busy" if status >= 500 else "other")


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _reason(error: BaseException) -> str:
    """An error in a few words: the HTTP status and what the server said, or the error's type and message."""
    status = _status(error)
    message = " ".join((getattr(error, "server_message", None) or str(error)).split()).rstrip(".")[:200]
    return ": ".join(filter(None, [type(error).__name__ if status is None else f"HTTP {status}", message]))
