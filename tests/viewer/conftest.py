"""A page with only the viewer, and a small head with a bright mark on the right, at the front, high up."""

import contextlib
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from viewer.workspace import Workspace

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

SHAPE, SPACING = (40, 48, 30), (1.0, 1.0, 1.5)  # R, A, S
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = -(np.array(SHAPE) - 1) / 2 * SPACING  # puts the middle of the head at 0, 0, 0
MARK = (10.0, 12.0, 9.0)  # mm (R, A, S)
FRAME = ((-12.5, -14.5, -30.0), (8.5, 16.5, 9.75))  # mm (R, A, S); it goes beyond the scan at the bottom
PLACES = [  # mm (R, A, S), at the centres of voxels
    {"probability": 0.9996, "position_mm": (9.5, 11.5, 8.25), "side": "right"},
    {"probability": 0.0512, "position_mm": (-9.5, -11.5, -8.25), "side": "left"},
]
PEAK = (-9.5, -11.5, -8.25)  # of the heat map, mm (R, A, S): left, back, low; at the centre of a voxel


def millimetres(shape, affine):
    """World coordinates of every voxel."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def write_head(path: Path, orientation: str = "RAS") -> Path:
    """Write an ellipsoid of 300 with a cube of 1000. The stored orientation must not change what the viewer shows."""
    place = millimetres(SHAPE, AFFINE)
    head = 300.0 * ((place / (17, 21, 19)) ** 2).sum(-1).__lt__(1)
    head[(np.abs(place - MARK) < 3).all(-1)] = 1000
    image = nib.Nifti1Image(head.astype(np.int16), AFFINE)
    image = image.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt(orientation)))
    assert "".join(nib.aff2axcodes(image.affine)) == orientation
    # a wrong qform and voxel size, with the larger code: nibabel and this project use the sform
    image.set_sform(image.affine, code=1)
    image.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), code=2)
    nib.save(image, path)
    return path


def write_heat(path: Path) -> Path:
    """Write a blob with maximum 1 on another, coarser voxel grid."""
    affine = np.diag([-2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = [30, -30, -30]
    distance = np.square(millimetres((25, 25, 25), affine) - PEAK).sum(-1)
    nib.save(nib.Nifti1Image(np.exp(-distance / (2 * 5.0**2)).astype(np.float32), affine), path)
    return path


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = Workspace()
    yield workspace
    workspace.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The folder where gradio keeps its files."""
    folder = tmp_path_factory.mktemp("gradio")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    yield folder
    os.environ.pop("GRADIO_TEMP_DIR")
    if before is not None:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="session")
def make_page(served):
    """A function that makes the gradio page, with one button per scene. The button's id is the scene's name."""
    import gradio as gr

    import viewer

    heat = write_heat(served / "heat.nii.gz")

    def shown(name, orientation="RAS", overlay=None, **settings):
        path = write_head(served / f"{name}.nii.gz", orientation)
        return lambda: viewer.scene(path, overlay, low=0, high=1000, name=name, **settings)

    def damaged():
        scene = viewer.scene(write_head(served / "damaged.nii.gz"), low=0, high=1000)
        (served / "damaged.nii.gz").write_bytes(b"this is not a volume")
        return scene

    def gone():
        scene = viewer.scene(write_head(served / "gone.nii.gz"), low=0, high=1000)
        (served / "gone.nii.gz").unlink()
        return scene

    def large():
        path = served / "large.nii.gz"
        nib.save(nib.Nifti1Image(np.full((170, 160, 150), 200, np.uint8), AFFINE), path)
        return viewer.scene(path, low=0, high=400, name="large")

    scenes = {
        "plain": shown("plain"),
        "lps": shown("lps", "LPS"),
        "asr": shown("asr", "ASR"),
        "heated": shown("heated", "PIR", heat, peak=PEAK),
        "framed": shown("framed", "LPI", heat, peak=(0, 0, 0), frame=FRAME),
        "placed": shown("placed", "LAS", places=PLACES),
        "slow": shown("slow"),
        "large": large,
        "damaged": damaged,
        "gone": gone,
        "none": lambda: None,
    }

    def make():
        gr.set_static_paths(viewer.static_paths())
        with gr.Blocks() as page:
            with gr.Row():
                buttons = {name: gr.Button(name, elem_id=name, min_width=60) for name in scenes}
                hide, unhide = gr.Button("hide", elem_id="hide"), gr.Button("unhide", elem_id="unhide")
            with gr.Column() as column:
                component = viewer.Viewer(elem_id="viewer")
            for name, button in buttons.items():
                button.click(scenes[name], None, component, show_progress="hidden")
            hide.click(lambda: gr.Column(visible=False), None, column)
            unhide.click(lambda: gr.Column(visible=True), None, column)
        return page

    return make


@pytest.fixture(scope="session")
def address(make_page):
    """The address of the running page."""
    import viewer

    page = make_page()
    _, url, _ = page.launch(
        head=viewer.head(),
        css=viewer.css(),
        run_history=False,
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
    )
    yield url
    page.close()


@contextlib.contextmanager
def _opened(browser, address, **settings):
    """The page in a new browser context, with the viewer ready for its first scene."""
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 900}, **settings})
    page = context.new_page()
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    try:
        page.goto(address)
        page.wait_for_selector(".grn-viewer[data-started]", timeout=30_000)
        yield page
        assert page.errors == []
    finally:
        context.close()


@pytest.fixture(scope="session")
def opened():
    return _opened


@pytest.fixture(scope="session")
def scan_file():
    return write_head


@pytest.fixture(scope="module")
def page(browser, address):
    with _opened(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def page_without_webgl(browser_without_webgl, address):
    with _opened(browser_without_webgl, address) as page:
        yield page


@pytest.fixture(params=["webgl", "pictures"])
def either(request):
    """The page with WebGL2 and without it."""
    return request.getfixturevalue({"webgl": "page", "pictures": "page_without_webgl"}[request.param])
