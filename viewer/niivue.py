"""A gradio component that shows a scan and a heat map in the browser, with NiiVue or, without WebGL2, as plain slices.

    gr.set_static_paths(viewer.static_paths())
    with gr.Blocks() as page:
        view = viewer.Viewer()
        button.click(lambda path: viewer.scene(path, low=0, high=900), upload, view)
    page.launch(head=viewer.head(), css=viewer.css())

The browser loads everything from `viewer/static/`. The component contacts no other host and stores nothing in the
browser.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData

from preprocessing.reading_gloresnet import open_image, stated_affine

FOLDER = Path(__file__).resolve().parent
STATIC = FOLDER / "static"

# gradio runs this text as a plain function, possibly before the script module has loaded, so it waits
START = """
const began = Date.now();
(function start() {
  if (window.GloResNetViewer) {
    window.GloResNetViewer.mount(element, props, watch);
  } else if (Date.now() - began < 30000) {
    setTimeout(start, 50);
  } else {
    const message = element.querySelector(".grn-message");
    message.textContent = "The viewer's script could not be loaded. Reload the page.";
    element.querySelector(".grn-viewer").dataset.state = "error";
  }
})();
"""


def static_paths() -> list[Path]:
    """The folder that the browser loads from. Pass it to `gr.set_static_paths` before `launch`."""
    return [STATIC]


def head(folder: str = f"gradio_api/file={STATIC.as_posix()}") -> str:
    """The script tag for `launch(head=...)`. Its address is relative, so it also works below a sub-path.

    Args:
        folder: the address of `static/`. The default, gradio's own, shows visitors where it lies on this machine.
    """
    return f'<script type="module" src="{folder}/viewer.js"></script>'


def css() -> str:
    """The style sheet for `launch(css=...)`."""
    return (FOLDER / "viewer.css").read_text(encoding="utf-8")


def Viewer(value: dict | None = None, **settings) -> gr.HTML:
    """The viewer component. It only displays its value and never changes it.

    This is a function because gradio writes a stub file next to the source of every subclass on import.

    Args:
        value: a `scene(...)`, or None for the empty state.
        settings: settings of any gradio component: `elem_id`, `visible`, `scale`, ...
    """
    return gr.HTML(
        value,
        html_template=(FOLDER / "viewer.html").read_text(encoding="utf-8"),
        js_on_load=START,
        apply_default_css=False,
        **settings,
    )


def scene(
    scan_path: str | Path,
    overlay_path: str | Path | None = None,
    *,
    low: float,
    high: float,
    peak: Sequence[float] | None = None,
    frame: Sequence[Sequence[float]] | None = None,
    places: Sequence[dict] = (),
    name: str = "",
) -> dict:
    """What the viewer shows: a scan, a heat map over it, and the first position of the crosshair.

    Gradio serves files only from its own temporary folder (`GRADIO_TEMP_DIR`), which already holds the uploads. It
    copies other files there from the system's temporary folder or the working directory. Write the overlay below
    `GRADIO_TEMP_DIR`, so that there is only one copy to delete.

    Args:
        scan_path: `.nii` or `.nii.gz`, any orientation, one volume.
        overlay_path: NIfTI file on any voxel grid, values 0 to 1; the affines place it over the scan.
        low, high: the intensities shown as black and as white, in the scan's scaled units.
        peak: crosshair position in millimetres (R, A, S); None for the middle of the scan.
        frame: two opposite corners in millimetres (R, A, S) of the part that the network saw, along the scan's axes;
            the slices show its outline. None for the whole scan.
        places: suspicious places with their `probability`, `position_mm` (R, A, S) and `side`, see
            `screening.places.list_places`; the viewer lists them in this order, and rings mark them in the slices.
        name: the scan's name on the page.

    Returns:
        A value for `Viewer` that can be written as JSON.

    Raises:
        ValueError: the window is empty, or a number is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the window from {low} to {high} is empty; give two finite intensities, low below high.")
    if peak is not None and (len(peak) != 3 or not all(map(math.isfinite, peak))):
        raise ValueError(f"the peak {peak} is not a position; give three finite numbers, millimetres (R, A, S).")
    if frame is not None and not all(len(corner) == 3 and all(map(math.isfinite, corner)) for corner in frame):
        raise ValueError(f"the frame {frame} has no corners; give two positions in millimetres (R, A, S).")
    listed = [
        {
            "probability": float(place["probability"]),
            "position_mm": [float(mm) for mm in place["position_mm"]],
            "side": str(place["side"]),
        }
        for place in places
    ]
    if not all(math.isfinite(n) for place in listed for n in (place["probability"], *place["position_mm"])):
        raise ValueError("a place has no finite probability or position; give those of `list_places`.")
    return {
        "scan": _file(scan_path),
        "overlay": None if overlay_path is None else _file(overlay_path),
        "cal_min": float(low),
        "cal_max": float(high),
        "peak": None if peak is None else [float(mm) for mm in peak],
        "frame": None if frame is None else [[float(mm) for mm in corner] for corner in frame],
        "places": listed,
        "name": str(name),
    }


def _file(path: str | Path) -> dict:
    """A file for gradio to serve, with its affine.

    NiiVue uses the qform if its code is larger. nibabel, and so this project, prefers the sform. The affine in
    millimetres is sent along so that the viewer and the preprocessing place the scan in the same way.
    """
    path = Path(path).resolve()
    file = FileData(path=str(path), orig_name=path.name, size=path.stat().st_size).model_dump()
    return {"file": file, "affine": stated_affine(open_image(str(path)), path.name).tolist()}
