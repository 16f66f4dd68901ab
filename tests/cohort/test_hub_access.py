"""Every failure of the Hub becomes one sentence that says what to do."""

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from cohort.hub_access import HUB_FAILURES, HubError, explain, hub_name, require_token


def answered(status, kind=HfHubHTTPError, message="the server's\nreason."):
    response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub.example/api"))
    return kind("request failed", response=response, server_message=message)


def wrapped(error):
    outer = RuntimeError("Error while uploading 'model.safetensors'")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "download", "upload"),
    [
        (answered(401), "no dataset lab/net on", "does not know this token"),
        (answered(402), "could not be downloaded (HTTP 402", "asks for a paid plan for lab/net"),
        (answered(403), "no dataset lab/net on", "may not write to the dataset lab/net"),
        (answered(404), "no dataset lab/net on", "may not write to the dataset lab/net"),
        (answered(403, GatedRepoError), "/datasets/lab/net, then run `hf auth login`", "may not write"),
        (answered(404, RevisionNotFoundError), "has no revision v1", "may not write"),
        (answered(409), "could not be downloaded", "a conflict for lab/net"),
        (answered(429), "busy or out of order (HTTP 429: the server's reason)", "try again later"),
        (answered(500), "busy or out of order", "busy or out of order"),
        (answered(400), "(HTTP 400: the server's reason)", "upload to lab/net failed (HTTP 400: the server's reason)"),
        (wrapped(answered(503)), "busy or out of order", "busy or out of order"),
        (httpx2.ReadTimeout(""), "does not answer", "cannot be reached at"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set", "unset it to upload"),
        (ValueError("bad\n name"), "(ValueError: bad name)", "(ValueError: bad name)"),
    ],
)
def test_each_failure_has_a_sentence_for_downloads_and_uploads(error, download, upload):
    assert isinstance(error, HUB_FAILURES)
    for expected, sentence in (
        (download, explain(error, "lab/net", "dataset", revision="v1")),
        (upload, explain(error, "lab/net", "dataset", upload=True)),
    ):
        assert expected in sentence
        assert sentence.endswith(".") and "\n" not in sentence and "{" not in sentence


@pytest.mark.parametrize(("offline", "reason"), [(True, "HF_HUB_OFFLINE is set"), (False, "does not answer")])
def test_an_uncached_dataset_names_the_reason(offline, reason, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert reason in explain(LocalEntryNotFoundError("not cached"), "lab/net", "dataset")


def test_names_and_tokens_are_checked(monkeypatch):
    assert hub_name("lab/net") == "lab/net"
    for text in ("net", "lab/net/v1", "lab/", "lab/a--b"):
        with pytest.raises(ValueError, match="give ORG/NAME"):
            hub_name(text)
    monkeypatch.setattr("cohort.hub_access.get_token", lambda: None)
    with pytest.raises(HubError, match="run `hf auth login`, or set HF_TOKEN"):
        require_token()
