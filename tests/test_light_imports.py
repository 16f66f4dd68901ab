"""Part of the project works without torch and transformers, and all but DICOM and N4 without their packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

BLOCK = """
import sys
for name in ("torch", "transformers", "pydicom", "gdcm", "SimpleITK"):
    sys.modules[name] = None  # importing it now raises ImportError
"""

ARRAY_FUNCTIONS = """
import nibabel
import numpy as np
from preprocessing import VolumeError, apply_mask, map_volume, read_volume, resample, standardise

data = np.random.default_rng(0).normal(100, 20, (20, 24, 18)).astype(np.float32)
nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.5, 1.0])), "scan.nii.gz")
volume = read_volume("scan.nii.gz")
np.testing.assert_array_equal(volume.data, data[::-1])
brain = np.zeros(volume.data.shape)
brain[4:14, 5:20, 3:12] = 1
cube = map_volume(apply_mask(volume, brain), 16)
assert cube.shape == (16, 16, 16) and abs(cube.mean()) < 1e-5
np.testing.assert_array_equal(map_volume(volume, 16), standardise(resample(volume.data, 16)))
try:
    read_volume("gone.nii")
except VolumeError as error:
    assert "does not exist" in str(error)
else:
    raise AssertionError("a missing file was read")
try:
    import preprocessing
    preprocessing.GloResNetImageProcessor
except ImportError:
    pass
else:
    raise AssertionError("the processor class was imported without transformers")
"""

OTHER_ROOMS = """
import machine.cores, machine.memory, machine.programs
import cohort.images
import dicomfiles
import run_folder.files, run_folder.layout, run_folder.predictions, run_folder.tables
import screening.errors, screening.loading, screening.many_scans, screening.model
from screening.exported import ModelError, load_exported
from screening.out_of_distribution import training_appearance, unusual
from screening.requests import find_requests

open("scan.nii", "w").close()
assert not dicomfiles.is_delivery("scan.nii")
try:
    dicomfiles.read("scan.nii")
except dicomfiles.SeriesError as error:
    assert "without the package pydicom" in str(error)
assert [request.scan for request in find_requests(["scan.nii"])] == ["scan.nii"]
run_folder.files.write_json("x.json", {"a": 1})
assert run_folder.files.read_json("x.json") == {"a": 1}
import numpy as np
volume = np.random.default_rng(0).normal(size=(16, 16, 16))
assert unusual(volume, training_appearance([volume])) == []
try:
    screening.loading.load_model("gone/")
except ModelError as error:
    assert "the model folder gone/ does not exist" in str(error)
try:
    load_exported("gone.onnx")
except ModelError as error:
    assert "does not exist" in str(error)
"""


def run(code, folder):
    command = [sys.executable, "-c", f"{BLOCK}sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_array_functions_of_preprocessing(tmp_path):
    run(ARRAY_FUNCTIONS, tmp_path)


def test_run_folder_machine_and_the_light_part_of_screening(tmp_path):
    run(OTHER_ROOMS, tmp_path)


NIBABEL_ALONE = """
import sys
from machine.imports import import_nibabel_alone

import_nibabel_alone()
assert "pydicom" not in sys.modules and "nibabel" in sys.modules
import nibabel
import numpy as np
from pydicom import Dataset  # a later import finds it
from preprocessing import read_volume

image = nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4))
image.header.extensions.append(nibabel.nifti1.Nifti1Extension(2, b"a header of DICOM, damaged"))
nibabel.save(image, "pair.img")
np.testing.assert_array_equal(read_volume("pair.img").data, image.dataobj)
"""


def test_nibabel_without_pydicom(tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{NIBABEL_ALONE}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
