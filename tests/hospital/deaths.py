"""Death of the service at each named step, or Ctrl-C, and what its next start makes of it. Each function is a test."""

import os
import signal

import hospital.archive
import hospital.queue
import hospital.service
import hospital.spool
from tests.hospital.setting import PICTURES_AND_MAP, evidence, files, offer, predecessors, send, wait


def _dies(owner, name, after=True, count=1):
    """A patch that ends the service before or after a function, when it is called the `count`th time."""

    def patch():
        original, calls = getattr(owner, name), []

        def dying(*args, **more):
            calls.append(1)
            if len(calls) < count:
                return original(*args, **more)
            if after:
                original(*args, **more)
            os._exit(9)

        setattr(owner, name, dying)

    return patch


def _dies_when_sent():
    """A patch that ends the service when it is about to delete the documents of a report that was sent."""
    clear = hospital.service.Service.clear

    def dying(service):
        if service.queue.in_state("sent"):
            os._exit(9)
        clear(service)

    hospital.service.Service.clear = dying


def _interrupted(owner, name):
    """A patch that gives the service a Ctrl-C when it calls a function."""

    def patch():
        setattr(owner, name, lambda *_args, **_more: os.kill(os.getpid(), signal.SIGINT))

    return patch


STEPS = {
    "interrupt": _interrupted(hospital.service, "screen_study"),
    "receive_before": _dies(hospital.spool.Spool, "keep", after=False, count=5),
    "receive_after": _dies(hospital.spool.Spool, "keep", count=5),
    "look": _dies(hospital.service, "read_series"),
    "screen": _dies(hospital.service, "screen_study"),
    "documents": _dies(hospital.service, "write_documents"),
    "note": _dies(hospital.queue.Queue, "add"),
    "send_in_between": _dies(hospital.archive.Archive, "_store_one", count=3),
    "send": _dies(hospital.archive.Archive, "store"),
    "mark": _dies(hospital.queue.Queue, "update"),
    "clear_documents": _dies_when_sent,
    "clear_received": _dies(hospital.spool.Spool, "clear"),
}


def _death(step):
    def scenario(s):
        folder, study = s.study(f"death-{step}")
        spool = f"death-{step}"
        s.listen(spool, "--patience", 0, patch=STEPS[step])
        answers = offer(s, files(folder))
        wait(lambda: s.ended() is not None)
        assert s.ended() == (130 if step == "interrupt" else 9)
        assert ("what was received is in the spool" in s.output()) == (step == "interrupt")
        # a transfer that did not end is remembered
        assert bool(list(s.spool.rglob(".cut-*"))) == step.startswith("receive")
        s.listen(spool, "--patience", 0)
        if answers is None or set(answers) != {0}:  # the sender sees it, and repeats
            send(s, files(folder))
        s.wait_for(study)
        wait(lambda: not s.received())
        send(s, files(folder))
        wait(lambda: not s.received())
        (report,) = s.wait_for(study)
        assert len(s.reports(study, "OT")) == PICTURES_AND_MAP and len(evidence(report)) == 10
        assert not predecessors(report) and "1 sent" in s.queue()

    return scenario


for _step in STEPS:
    globals()[f"death_at_{_step}"] = _death(_step)
