"""The unit, the Containerfile and the example of a configuration name what exists.

Their install lines run in a fresh environment in `.ci/run`: they take minutes.
"""

import re
from pathlib import Path

import serve
from hospital.settings import read_settings
from tests.programs import ROOT

FOLDER = ROOT / "hospital" / "install"
UNIT, CONTAINER = (FOLDER / name for name in ("gloresnet-hospital.service", "Containerfile"))


def test_they_start_the_program_with_flags_that_it_knows():
    start = re.search(r"^ExecStart=\S+/python (.*)$", UNIT.read_text(), re.M)[1].split()
    entry = re.search(r'^ENTRYPOINT \["python", "(.*)"\]$', CONTAINER.read_text(), re.M)[1]
    command = re.findall(r'"([^"]+)"', re.search(r"^CMD (.*)$", CONTAINER.read_text(), re.M)[1])
    for program, *flags in (start, [entry, *command]):
        assert (ROOT / program).is_file()
        assert serve.parse_arguments(flags).config == Path(flags[1])
    assert re.search(r"^SuccessExitStatus=130$", UNIT.read_text(), re.M)


def test_they_install_the_same_files_as_the_documentation():
    wanted = {"requirements.txt", "requirements-hospital.txt"}
    for text in (UNIT.read_text(), CONTAINER.read_text(), (ROOT / "docs" / "hospital.md").read_text()):
        line = next(line for line in text.splitlines() if "pip install" in line)
        assert {Path(name).name for name in re.findall(r"-r (\S+)", line)} == wanted


def test_the_example_of_a_configuration():
    settings = read_settings({}, FOLDER / "service.yaml")
    assert settings.listen == 11112 and settings.archive.startswith("https://")


def test_the_light_container_installs_the_same_versions_without_torch():
    text = (FOLDER / "Containerfile.light").read_text()
    names = re.findall(r"-r (\S+)", next(line for line in text.splitlines() if line.startswith("RUN pip install")))
    assert names == ["requirements-light.txt", "requirements-hospital.txt"]
    pins = {name: set(re.findall(r"^\w.*$", (ROOT / name).read_text(), re.M)) for name in (*names, "requirements.txt")}
    pins["export"] = set((ROOT / "requirements-export.txt").read_text().splitlines())
    assert pins[names[0]] <= pins["requirements.txt"] | pins["export"] | pins[names[1]]
    assert not {"torch", "transformers"} & {pin.split("==")[0] for pin in pins[names[0]] | pins[names[1]]}
