"""The service with a real Orthanc, in a network that has nothing but loopback: see driver.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hospital.orthanc import ALONE, missing
from tests.hospital.conftest import require_tools

SCENARIOS = """
    store poll archive_down send_to half_with_a_gap half_that_waits half_that_was_reported a_late_part_alone cut_off
    known_images_again while_a_sender_is_connected compressed_over_the_wire strangers limits a_disk_that_fills_up
    encrypted several_series screening_that_fails real_program
    death_at_interrupt death_at_receive_before death_at_receive_after death_at_look death_at_screen death_at_documents
    death_at_note death_at_send_in_between death_at_send death_at_mark death_at_clear_documents death_at_clear_received
""".split()


@pytest.fixture(scope="module")
def driver(model_folder, tmp_path_factory):
    if problem := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    require_tools("ss", "openssl")
    base = tmp_path_factory.mktemp("driver")
    program = [*ALONE, sys.executable, str(Path(__file__).with_name("driver.py")), str(model_folder), str(base)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline(), "the driver did not start: see its standard error"
    yield process
    process.stdin.close()
    process.wait(120)  # a busy machine takes its time


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(driver, scenario):
    driver.stdin.write(f"{scenario}\n")
    driver.stdin.flush()
    answer = driver.stdout.readline()
    assert answer, "the driver ended: see its standard error"
    problem = json.loads(answer)["problem"]
    assert not problem, problem
