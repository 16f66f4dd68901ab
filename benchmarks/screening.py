"""Ways to get from a scan to its probability of injury: the reference path, ours, and other libraries."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from machine.cores import available_cores
from machine.memory import keep_freed_memory
from screening.formats import SUFFIXES

from .contestants import ROOT

OURS = ["float32", "bfloat16"]
CONVERTED = ["onnx float32", "openvino float32", "openvino bfloat16", "openvino int8"]
WAYS = ["reference", *OURS, *CONVERTED, "monai", "torchio"]
QUICK_WAYS = ["reference", *OURS, "openvino float32", "openvino bfloat16", "monai"]
MANY_WAYS = [*OURS, "openvino bfloat16", "openvino int8"]
CALIBRATION_SEED = 43  # so that no scan that is timed calibrates a file


def scan(way: str, folder: str, image_size: int):
    """A turn takes the path of a scan; the answer is its probability of injury with test-time augmentation (TTA)."""
    read, answer = find_way(way, folder, image_size)
    return lambda path: answer(read(path))


def network(way: str, folder: str, image_size: int):
    """A turn is the TTA pair (both views) of one fixed volume; its argument is ignored."""
    from screening.fast import smooth_noise

    _, answer = find_way(way, folder, image_size)
    volume = smooth_noise(1, 1, image_size, seed=7)
    return lambda _: answer(volume)


def many(way: str, folder: str, image_size: int):
    """A turn takes a list of paths; the answer is the memory held after an eighth of them and at the end."""
    if way == "reference":
        one = scan(way, folder, image_size)
        return lambda paths: [one(path) for path in paths] and None
    from screening.loading import for_speed, load_model
    from screening.many_scans import screen
    from screening.requests import Request

    torch.set_num_threads(available_cores())
    if " " in way:  # converted in another process, because the memory that it takes does not belong to screening
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            folder = pool.submit(convert, folder, *way.split()).result()
    keep_freed_memory()
    model, processor = load_model(folder)
    model = for_speed(model, way)
    workers = min(4, available_cores() // 2)

    def turn(paths):
        early = None
        requests = [Request(path) for path in paths]
        for number, row in enumerate(screen(requests, model, processor, num_workers=workers)):
            if row["status"] != "ok":
                raise RuntimeError(row["message"])
            if number == len(paths) // 8:
                early = resident_bytes()
        return [early, resident_bytes()]

    return turn


def resident_bytes() -> int:
    """Memory in bytes that this process holds now (on Linux; elsewhere 0)."""
    if not os.path.exists("/proc/self/statm"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def find_way(way: str, folder: str, image_size: int) -> tuple:
    """Set up one way, as a user of it would.

    Returns:
        `read(path)`, which gives a volume `(1, 1, S, S, S)`, and `answer(volume)`, which gives its probability.
    """
    if way == "reference":  # untuned: default threads and allocator
        return reference_read(image_size), two_passes(plain_model(folder))
    torch.set_num_threads(available_cores())
    if way == "monai":
        return monai_read(image_size), two_passes(monai_model())
    if way == "torchio":
        return torchio_read(image_size), two_passes(plain_model(folder))
    from screening.fast import prepare
    from screening.loading import load_model

    keep_freed_memory()
    if " " in way:
        folder = convert(folder, *way.split())
    model, processor = load_model(folder)
    model = prepare(model, "auto" if " " in way else way)
    read = lambda path: processor(path, return_tensors="pt").pixel_values  # noqa: E731
    return read, torch.inference_mode()(lambda volume: model.predict_proba(volume)[0, 1].item())


def plain_model(folder: str):
    """The model without any of our optimisations: volume -> logits."""
    from modeling_gloresnet import GloResNetForImageClassification

    model = GloResNetForImageClassification.from_pretrained(folder).eval()
    return lambda volume: model(volume).logits


def two_passes(model):
    """Average the softmax of the volume and of its mirror image, each from one eager float32 pass."""

    @torch.no_grad()
    def answer(volume):
        views = [model(view).softmax(dim=-1) for view in (volume, volume.flip(2))]
        return torch.stack(views).mean(dim=0)[0, 1].item()

    return answer


def reference_read(image_size: int):
    """Read as the paper's code does: float64 from nibabel, zoom from scipy, z-score."""
    import nibabel
    import numpy as np
    from scipy.ndimage import zoom

    def read(path):
        data = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
        cube = zoom(data, [image_size / length for length in data.shape], order=1)
        cube = (cube - cube.mean()) / (cube.std() + 1e-6)
        return torch.from_numpy(cube.astype(np.float32))[None, None]

    return read


def monai_read(image_size: int):
    """Read with MONAI's transforms."""
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, NormalizeIntensity, Orientation, Resize

    transform = Compose(
        [
            LoadImage(image_only=True),
            EnsureChannelFirst(),
            Orientation(axcodes="RAS"),
            Resize((image_size,) * 3, mode="trilinear", align_corners=True),
            NormalizeIntensity(),
        ]
    )
    return lambda path: transform(path).as_tensor()[None]


def monai_model():
    """MONAI's ResNet-10 with our geometry and random weights."""
    from monai.networks.nets import resnet10

    options = {"n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False, "num_classes": 2}
    return resnet10(pretrained=False, spatial_dims=3, feed_forward=True, shortcut_type="B", **options).eval()


def torchio_read(image_size: int):
    """Read with TorchIO's transforms."""
    import torchio

    transform = torchio.Compose([torchio.ToCanonical(), torchio.Resize((image_size,) * 3), torchio.ZNormalization()])
    return lambda path: transform(torchio.ScalarImage(path)).data.float()[None]


def convert(folder: str, kind: str, dtype: str) -> str:
    """Convert the model without the check that `publishing.convert` makes; the report compares the probabilities.

    A file that another section has converted is used again.
    """
    from publishing.convert import read_scans, write
    from screening.loading import load_pytorch_model

    import_modules_of(kind, dtype)
    file = Path(folder).with_name(f"{dtype}{SUFFIXES[kind]}")
    if not file.exists():
        model, processor = load_pytorch_model(folder)
        volumes = read_scans(calibration_scans(), processor) if dtype == "int8" else []
        write(model, processor, kind, dtype, volumes, file)
    return str(file)


def calibration_scans() -> list[str]:
    """Paths of eight phantoms; four of them calibrate int8. None of them is timed."""
    from cohort.phantom import generate_phantom_cohort

    folder = ROOT / "data" / "phantom-calibration"
    generate_phantom_cohort(folder, num_subjects=8, seed=CALIBRATION_SEED, num_workers=1, progress=False)
    return sorted(map(str, folder.rglob("*_T2w.nii.gz")))


def import_modules_of(kind: str, dtype: str) -> None:
    """Import what the file needs. Raises ImportError if a package of `requirements-export.txt` is missing."""
    if kind == "onnx" or dtype == "int8":
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    if kind == "openvino":
        import openvino  # noqa: F401
