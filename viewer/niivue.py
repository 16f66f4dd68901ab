"""A gradio component that shows a scan and a heat map in the browser: NiiVue, or plain slices where WebGL2 is missing.

    gr.set_static_paths(viewer.static_paths())
    with gr.Blocks() as page:
        view = viewer.Viewer()
        button.click(lambda path: viewer.scene(path, low=0, high=900), upload, view)
    page.launch(head=viewer.head(), css=viewer.css())

Everything the browser loads comes from `viewer/static/`; nothing is asked of another host, nothing is stored in it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import nibabel
from gradio.data_classes import FileData

FOLDER = Path(__file__).resolve().parent
STATIC = FOLDER / "static"

# gradio calls this text as a plain function; the module may still be on its way, so it waits
START = """
const began = Date.now();
(function start() {
  if (window.GloResNetViewer) {
    window.GloResNetViewer.mount(element, props, watch);
  } else if (Date.now() - began < 30000) {
    setTimeout(start, 50);
  } else {
    const message = element.querySelector(".grn-message");
    message.textContent = "The viewer's script could not be loaded: reload the page.";
    element.querySelector(".grn-viewer").dataset.state = "error";
  }
})();
"""


def static_paths() -> list[Path]:
    """The folder the browser loads from, for `gr.set_static_paths`, which must come before `launch`."""
    return [STATIC]


def head() -> str:
    """What `launch(head=...)` needs: the script, by a relative address so that it is found under a sub-path too."""
    return f'<script type="module" src="gradio_api/file={(STATIC / "viewer.js").as_posix()}"></script>'


def css() -> str:
    """The style sheet, for `launch(css=...)`."""
    return (FOLDER / "viewer.css").read_text(encoding="utf-8")


def Viewer(value: dict | None = None, **settings) -> gr.HTML:
    """The component. Its value is a `scene(...)`, or None for the empty state; it only shows, it returns nothing.

    A function and not a subclass: gradio writes a stub file beside the source of every subclass when it is imported.

    Args:
        value: a `scene`.
        settings: what every gradio component takes: `elem_id`, `visible`, `scale`, ...
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
    name: str = "",
) -> dict:
    """What the viewer shows: a scan, a heat map over it, and where to look first.

    Gradio serves a file only from its own temporary folder (`GRADIO_TEMP_DIR`; an upload is there already) and copies
    it there from the system's temporary folder or the working directory. Write the overlay below `GRADIO_TEMP_DIR`,
    and there is one copy to delete.

    Args:
        scan_path: `.nii` or `.nii.gz`, any orientation, one volume.
        overlay_path: a NIfTI of any grid, 0 to 1, laid over the scan by the two affines.
        low, high: the intensities shown as black and as white, in the scan's scaled units.
        peak: millimetres (R, A, S) to which the crosshair goes; None for the middle of the scan.
        name: what the page calls the scan.

    Returns:
        A value for `Viewer`, which JSON can carry.

    Raises:
        ValueError: the window is empty, or a number is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the window from {low} to {high} shows nothing: give two finite intensities, low below high.")
    if peak is not None and (len(peak) != 3 or not all(map(math.isfinite, peak))):
        raise ValueError(f"the peak {peak} is no place: give three finite millimetres, (R, A, S).")
    return {
        "scan": _file(scan_path),
        "overlay": None if overlay_path is None else _file(overlay_path),
        "cal_min": float(low),
        "cal_max": float(high),
        "peak": None if peak is None else [float(mm) for mm in peak],
        "name": str(name),
    }


def _file(path: str | Path) -> dict:
    """A file for gradio to serve, with its affine.

    NiiVue prefers the qform where its code is the larger; nibabel, and so all of this project, prefers the sform.
    The affine is sent along so that the picture and the probability are of the same head.
    """
    path = Path(path).resolve()
    file = FileData(path=str(path), orig_name=path.name, size=path.stat().st_size).model_dump()
    return {"file": file, "affine": nibabel.load(path).affine.tolist()}
