"""The driver against a server that is only pretended: time limits, attempts, refusals."""

import json
from types import SimpleNamespace

import pytest

from federated.messages import FederationError, Plan
from run_folder.files import write_json
from tests.federated.conftest import require_nvflare

require_nvflare()

from nvflare.fuel.flare_api import api_spec  # noqa: E402

from federated import driver  # noqa: E402

PLAN = Plan({"num_train_epochs": 2}, 1, ("north", "river"))
ASKING = {"step": "0 train 1", "waiting_for": ["river"], "said": [], "refused": None}


class Server:
    """Each job handed in meets the next of `fates`: what its progress says, or its status, poll by poll."""

    def __init__(self, *fates):
        self.fates, self.jobs, self.aborted, self.connected = list(fates), [], [], ["north", "river"]

    def get_system_info(self):
        clients = [SimpleNamespace(name=name) for name in self.connected]
        return SimpleNamespace(client_info=clients, job_info=[SimpleNamespace(job_id=len(self.jobs))])

    def list_jobs(self):
        return [{"job_id": "old", "status": "RUNNING"}] if not self.jobs else []

    def submit_job(self, folder):
        self.jobs.append(json.loads((driver.Path(folder) / "meta.json").read_text()))
        self.fate = list(self.fates.pop(0))
        return len(self.jobs)

    def get_job_status(self, job):
        if job in self.aborted:
            return "FINISHED:ABORTED"
        self.now = self.fate.pop(0) if len(self.fate) > 1 else self.fate[0]
        if isinstance(self.now, Exception):
            raise self.now
        return self.now if isinstance(self.now, str) else "RUNNING"

    def do_app_command(self, job, topic, data):
        return self.now

    def get_client_job_status(self):
        return [{"client_name": name, "status": "started"} for name in self.connected]

    def abort_job(self, job):
        self.aborted.append(job)

    def close(self):
        pass


@pytest.fixture
def drive(tmp_path, monkeypatch):
    write_json(tmp_path / "startup" / "fed_admin.json", {"admin": {"username": "a@b.org", "host": "localhost"}})
    for name in ("POLL", "START"):
        monkeypatch.setattr(driver, name, 0.01)
    monkeypatch.setattr(driver, "check_kit", lambda kit: None)
    monkeypatch.setattr(driver.logging, "disable", lambda level: None)
    said = []

    def run(server, plan=PLAN, timeout=0.05):
        monkeypatch.setattr(driver, "new_secure_session", lambda *arguments, **options: server)
        driver.drive(tmp_path, plan, [0], timeout, said.append)
        return said

    return run


def test_the_job_of_the_hospitals_holds_no_path_of_the_coordinator(tmp_path):
    driver.write_job(tmp_path, Plan({"num_train_epochs": 2, "init": "/home/coordinator/w.pth"}, 1, ("north",)), [0])
    holding = [path for path in tmp_path.rglob("*.json") if "/home/coordinator/w.pth" in path.read_text()]
    assert [path.relative_to(tmp_path).parts[0] for path in holding] == ["coordinator"]
    assert json.loads((tmp_path / "meta.json").read_text())["deploy_map"]["coordinator"] == ["server"]


def test_a_round_that_takes_too_long_is_aborted_and_handed_in_again(drive):
    server = Server([ASKING], ["FINISHED:COMPLETED"])
    (sentence,) = drive(server)
    assert sentence.startswith("no answer from river within 0.05 seconds (0 train 1); trying again")
    assert len(server.jobs) == 2 and server.aborted == ["old", 1]  # the first was left by an earlier driver
    assert server.jobs[0]["mandatory_clients"] == ["north", "river"] and server.jobs[0]["min_clients"] == 2


def test_a_job_that_died_or_a_server_that_went_is_tried_again(drive):
    gone = api_spec.NoConnection("gone")
    server = Server(["FINISHED:EXECUTION_EXCEPTION"], [gone, gone, gone], ["FINISHED:COMPLETED"])
    first, second = drive(server)
    assert "the job has ended (execution exception)" in first and "the server does not answer (gone)" in second


def test_the_driver_gives_up_after_five_failures_at_the_same_place(drive):
    with pytest.raises(FederationError, match=r"5 times at the same place \(the start\). The rounds so far are kept"):
        drive(Server(*[["FINISHED:ABORTED"]] * 5))


def test_a_refusal_ends_the_run_at_once(drive):
    server = Server([{**ASKING, "refused": "river has torch 1.0"}])
    with pytest.raises(FederationError, match="river has torch 1.0"):
        drive(server)
    assert server.aborted == ["old", 1]


def test_a_missing_site_is_waited_for_and_then_named(drive):
    server = Server()
    server.connected = ["north"]
    with pytest.raises(FederationError, match=r"After 0.05 seconds, the sites river cannot be reached"):
        drive(server)


def test_a_site_that_is_left_out_need_not_be_there(drive):
    server = Server(["FINISHED:COMPLETED"])
    server.connected = ["north"]
    (sentence,) = drive(server, Plan({"num_train_epochs": 2}, 1, ("north",), left_out="river"))
    assert sentence == "river is not connected, so the joint model is not scored there"
    assert server.jobs[0]["deploy_map"] == {"coordinator": ["server"], "hospital": ["north"]}
