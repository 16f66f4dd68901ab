"""What a changed server could ask of a hospital's NVFlare."""

import pytest

from tests.federated.conftest import require_nvflare

require_nvflare()

from nvflare.fuel.sec.authz import AuthorizationService, Authorizer  # noqa: E402
from nvflare.private.defs import SysCommandTopic  # noqa: E402
from nvflare.private.fed.app.default_app_validator import DefaultAppValidator  # noqa: E402
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors  # noqa: E402
from nvflare.private.fed.utils.app_authz import AppAuthzService  # noqa: E402

from federated.limits import NEEDED, limit_client  # noqa: E402

SUPER = {"submitter_name": "a", "submitter_org": "b", "submitter_role": "super", "job_meta": {}}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(ClientRequestProcessors, "request_processors", [*ClientRequestProcessors.request_processors])
    monkeypatch.setattr(AppAuthzService, "authorize_app_info", staticmethod(AppAuthzService.authorize_app_info))


def topics():
    return {topic for each in ClientRequestProcessors.request_processors for topic in each.get_topics()}


def test_a_hospital_answers_no_request_for_its_files_even_if_the_server_asks_for_no_check():
    assert SysCommandTopic.SHELL in topics()  # NVFlare's own client does
    limit_client()
    assert topics() == NEEDED


def test_code_from_somebody_who_says_that_he_is_super_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config_fed_client.json").write_text("{}")
    monkeypatch.setattr(AuthorizationService, "the_authorizer", Authorizer("north", {}))
    validator = DefaultAppValidator("client")
    for code, allowed in ((False, True), (True, False)):
        if code:
            (tmp_path / "custom").mkdir()
        error, about = validator.validate(str(tmp_path))
        assert not error and AppAuthzService.authorize_app_info(app_info=about, **SUPER)[0]  # NVFlare allows it
        with monkeypatch.context() as limited:
            limited.setattr(AppAuthzService, "authorize_app_info", AppAuthzService.authorize_app_info)
            limit_client()
            assert AppAuthzService.authorize_app_info(app_info=about, **SUPER)[0] is allowed
