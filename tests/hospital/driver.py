"""Runs the functions of `MODULES` next to one Orthanc, with no network but loopback.

Reads the name of one per line, and answers with one line of JSON: `{"problem": TRACEBACK or ""}`. Services are
forked from this process, which has imported the slow libraries and loaded the model, and never computes anything.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import dicomweb_client.api  # noqa: E402, F401
import gdcm  # noqa: E402, F401
import highdicom  # noqa: E402, F401
import matplotlib  # noqa: E402, F401
import pynetdicom  # noqa: E402, F401
import torch  # noqa: E402
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map  # noqa: E402

import serve  # noqa: E402, F401
from hospital import pictures, service  # noqa: E402, F401
from hospital.orthanc import Orthanc, free_port  # noqa: E402
from screening import loading  # noqa: E402
from tests.hospital import deaths, encryption, parts, scenarios, setting  # noqa: E402

MODULES = scenarios, parts, encryption, deaths


def main() -> None:
    torch.set_num_threads(1)
    pictures.COUNT = setting.PICTURES
    get_iod_module_map(), get_module_attribute_map()  # half a second for each service, if it had to read them
    model, base = sys.argv[1], Path(sys.argv[2])
    loaded = loading.load_model(model)
    loading.load_model = lambda _name: loaded
    os.environ["TMPDIR"] = tempfile.tempdir = str(base)
    port = free_port()
    orthanc = Orthanc(base / "orthanc", ("GLORESNET", port), free_port(), free_port())
    place = setting.Setting(base, model, orthanc, port)
    functions = {name: found for module in MODULES for name, found in vars(module).items()}
    print(json.dumps({"problem": ""}), flush=True)
    try:
        for line in sys.stdin:
            problem = ""
            try:
                functions[line.strip()](place)
            except BaseException:
                problem = traceback.format_exc() + place.output()
            finally:
                place.stop()
            print(json.dumps({"problem": problem}), flush=True)
    finally:
        orthanc.stop()


if __name__ == "__main__":
    main()
