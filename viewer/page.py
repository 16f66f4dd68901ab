"""The page: its layout, and what happens when a scan is uploaded or chosen, or when a program sends one."""

import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.data_classes import FileData, GradioRootModel

from preprocessing.candidates_gloresnet import no_local_inputs
from screening.loading import for_speed
from screening.modalities import modalities_of
from screening.model import has_local_stream
from screening.one_scan import NOTICE, local_arrays

from .entries import COLUMNS, next_to, table_row
from .examples import EXAMPLES, write_example
from .fragments import about_pictures, answers_table, listed_places, masthead, result_panel
from .further import FurtherFields
from .niivue import Viewer, scene
from .scans import SERIES, UploadError, asks_for_series, check_endings, endings, screen_upload, take, take_scans
from .serving import launch
from .turns import LineIsFull, Turns
from .visits import place_in_line, unless_visitor_left
from .workspace import Workspace

METHODS = [("LayerCAM (finer)", "layercam"), ("Grad-CAM (coarser)", "gradcam")]
KEEP_PAIRS = 900  # seconds; the scan waits until its visitor has uploaded the mask
WAITING = 64  # scans that wait for their turn; further ones are told to try again later
THREADS = WAITING + 16  # each waiting event has one, so that it takes over its upload at once
PROGRESS = gr.Progress()  # as a default, it tells gradio to pass the progress of the event


class OneOrMany(GradioRootModel):
    """What a program sends: a scan, or all DICOM files of a study."""

    root: FileData | list[FileData]


class Page:
    """The page for one model. A visitor's scans are kept as a list of entries (see `entries.py`)."""

    def __init__(self, model, processor, name: str, workspace: Workspace, problem: str = ""):
        """
        Args:
            model, processor: as returned by `load_model`; None if there is a `problem`.
            name: the model's name on the page.
            workspace: keeps the visitors' files.
            problem: a sentence that says why there is no model.
        """
        self.model, self.processor, self.workspace = model, processor, workspace
        # float32 reproduces the predictions of the training run; heat maps need the unmodified model
        self.screening_model = model and for_speed(model, "float32")
        self.explains = model is not None and bool(model.networks)
        self.searches = model is not None and has_local_stream(model.config)
        self.further = FurtherFields(modalities_of(processor))
        if model is not None and (processor.brain_mask == "required" or self.further.names):
            workspace.keep_uploads = KEEP_PAIRS
        self.turns = Turns(WAITING)
        with gr.Blocks(title="GloResNet", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(masthead(model, name, problem))
            if model is not None:
                first = np.zeros((1, model.config.num_channels, *[processor.image_size] * 3), np.float32)
                local = local_arrays([no_local_inputs()] if self.searches else [])
                self.screening_model.answer({"pixel_values": first} | local)  # warm up: the first pass is slow
                self._lay_out()
                self._connect()
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=THREADS, api_open=False)

    def launch(self, **options) -> None:
        """Serve the page. `options` are those of `serving.launch`."""
        launch(self.blocks, self.workspace, THREADS, **options)

    # ----------------------------------------------------------------------------------------------------- layout

    def _lay_out(self) -> None:
        self.entries, self.chosen = gr.State([]), gr.State(0)
        needs_mask = self.processor.brain_mask == "required"
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.further.lay_out()
                self.upload = gr.File(
                    label="T2-weighted scan (NIfTI, MGH)" if needs_mask else "T2-weighted scans (NIfTI, MGH, DICOM)",
                    file_count="single" if needs_mask else "multiple",
                    file_types=endings(needs_mask),
                    height=150,
                    elem_id="upload",
                )
                self.mask = gr.File(
                    label="Brain mask of the scan (NIfTI, MGH), required by this model",
                    file_types=endings(needs_mask=True),
                    height=150,
                    visible=needs_mask,
                    elem_id="mask",
                )
                self.series = gr.Textbox(
                    label=f"{SERIES} of the DICOM study: its number, for the next upload only",
                    visible=False,
                    elem_id="series",
                )
                if not needs_mask:
                    gr.Markdown("A DICOM study is one scan: a .zip, or all its .dcm files at once.")
                    gr.Markdown("Or try a synthetic example, a computer-generated phantom:")
                    with gr.Row(elem_id="examples"):
                        self.examples = [gr.Button(kind, size="sm", min_width=40) for kind in EXAMPLES]
                self.result = gr.HTML(result_panel(), elem_id="result")
                with gr.Row():
                    self.answer_file = gr.DownloadButton("Result (JSON)", size="sm", min_width=60, interactive=False)
                    self.table_file = gr.DownloadButton("All results (CSV)", size="sm", min_width=60, interactive=False)
                    self.map_file = gr.DownloadButton("Heat map (NIfTI)", size="sm", min_width=60, interactive=False)
                    self.clear = gr.Button("Clear", size="sm", min_width=60)
            with gr.Column(scale=3, min_width=320):
                self.method = gr.Radio(
                    METHODS,
                    value="layercam",
                    label="Heat map: where the network looked",
                    visible=self.explains,
                    elem_id="method",
                )
                self.viewer = Viewer(elem_id="viewer")
                gr.Markdown(about_pictures(self.explains, self.searches))
        self.picker = gr.Dropdown(label="Scan to show", visible=False, elem_id="picker")
        self.table = gr.HTML(visible=False, elem_id="table")
        gr.Markdown(f"{NOTICE} Your scans are deleted when you press Clear or leave the page.")

    def _connect(self) -> None:
        screened = [self.upload, self.mask, *self.further.components, self.series, self.entries, self.chosen]
        screened += [self.picker, self.table, self.result]
        screened += [self.answer_file, self.table_file, self.map_file, self.viewer]
        private = {"api_visibility": "private"}
        raw = {"preprocess": False}  # a file as a dictionary; else gradio leaves an empty file behind for each

        shown = [self.entries, self.chosen, self.method]

        def then_explain(event):
            event = event.then(self.explain, shown, [self.viewer, self.map_file], **private)
            event.then(self.offer_map, shown, [self.map_file], **private)

        for source in [self.upload] + ([self.mask] if self.mask.visible else []):
            uploaded = [self.upload, self.mask, self.entries, self.series, *self.further.components]
            then_explain(source.upload(self.receive, uploaded, screened, **private, **raw))
        if not self.mask.visible:
            for button in self.examples:
                then_explain(button.click(self.receive_example, [button, self.entries], screened, **private))
        chosen = [self.chosen, self.table, self.result, self.answer_file]
        then_explain(self.picker.input(self.choose, [self.picker, self.entries], chosen, **private))
        then_explain(self.method.input(lambda: None, None, None, **private))
        self.clear.click(self.start_over, None, screened, **private)
        self.blocks.unload(self.leave)

        asked = [gr.File(label="scan", visible=False, file_count="single" if self.mask.visible else "multiple")]
        if not self.mask.visible:
            asked[0].data_model = OneOrMany
        else:
            asked.append(gr.File(label="mask", visible=False))
        answer = gr.JSON(label="answer", visible=False)
        gr.Button(visible=False).click(self.answer_program, asked, answer, api_name="screen", **raw)

    # ----------------------------------------------------------------------------------------------------- events

    @unless_visitor_left
    def receive(
        self,
        uploads: dict | list[dict] | None,
        mask: dict | None,
        entries: list[dict],
        series: str | None,
        request: gr.Request,
        progress=PROGRESS,
        *others: dict | None,
    ) -> dict:
        """Take over the uploaded scans, then screen them one after another."""
        series = str(series or "").strip() or None
        uploads = [uploads] if isinstance(uploads, dict) else uploads or []
        if self.processor.brain_mask == "required" and not (uploads and mask):
            missing = "the brain mask" if uploads else "the scan"
            sentence = f"This model needs a scan and its brain mask. Upload {missing} as well."
            return {self.result: result_panel(problem=sentence)}
        try:
            check_endings(uploads + ([mask] if mask else []), self.mask.visible)
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from None
        with self.workspace.present(request.session_hash):
            scans, own_mask, further = self._take(uploads, mask, request.session_hash, others)
            of_all = {"series": series, "further": further}
            told = (place_in_line(progress, scan, (number, len(scans))) for number, scan in enumerate(scans))
            new = [self._entry(scan, own_mask, tell, **of_all) for scan, tell in zip(scans, told, strict=True)]
            return self._received(entries, new)

    @unless_visitor_left
    def receive_example(self, kind: str, entries: list[dict], request: gr.Request, progress=PROGRESS) -> dict:
        """Generate a synthetic scan and screen it like an upload."""
        if not isinstance(kind, str) or kind not in EXAMPLES:
            raise gr.Error(f"There is no such example. Choose from: {', '.join(EXAMPLES)}.", print_exception=False)
        with self.workspace.present(request.session_hash):
            path = self.workspace.folder(request.session_hash) / f"synthetic {kind.lower()}.nii.gz"
            with self._turn(place_in_line(progress, path.parent)):
                write_example(kind, path)
            return self._received(entries, [self._entry(str(path), None, place_in_line(progress, path))])

    def _take(self, uploads: list[dict], mask: dict | None, visitor: str, others: tuple = ()) -> tuple:
        """The scans of an upload, their mask and further images, in the visitor's folders."""
        try:
            scans = take_scans(uploads, self.processor.brain_mask == "required", visitor, self.workspace)
            own_mask = take(mask, visitor, self.workspace) if mask else None
            return scans, own_mask, self.further.take(others, len(scans), visitor, self.workspace)
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from None

    @contextmanager
    def _turn(self, told: Callable[[int], None]) -> Iterator[None]:
        """Wait until no other scan is read. If too many wait, say so."""
        try:
            with self.turns.turn(told):
                yield
        except LineIsFull as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _received(self, entries: list[dict], new: list[dict]) -> dict:
        """Show the first of the new entries, and list all entries in the table."""
        chosen, entries = len(entries), entries + new
        names = [(f"{number + 1}. {entry['scan']}", number) for number, entry in enumerate(entries)]
        table = Path(new[-1]["path"]).with_name("gloresnet.csv")  # not in a new folder: the visitor may have left
        with open(table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *map(table_row, entries)])
        return {
            self.upload: None,
            self.mask: None,
            **dict.fromkeys(self.further.components),
            # emptied: a number of one study must not choose a series of the next one
            self.series: gr.Textbox(value="", visible=any(asks_for_series(entry) for entry in new)),
            self.entries: entries,
            self.chosen: chosen,
            self.viewer: None,
            self.map_file: gr.DownloadButton(value=None, interactive=False),
            self.table_file: gr.DownloadButton(value=str(table), interactive=True),
            self.picker: gr.Dropdown(names, value=chosen, visible=len(entries) > 1),
            **self._show(entries, chosen),
        }

    def _entry(self, scan: str, mask: str | None, told: Callable[[int], None], drawn=True, **more) -> dict:
        """Screen one scan when its turn comes, see `screen_upload`."""
        return screen_upload(self.screening_model, self.processor, scan, mask, self.turns.turn(told), drawn, **more)

    def _show(self, entries: list[dict], chosen: int) -> dict:
        """The table, the chosen entry's result, and its answer as a JSON file next to the scan."""
        entry, file = entries[chosen], None
        if entry["answer"]:
            file = next_to(entry, ".json")
            # not `run_folder.files`, which would create the folder again if the visitor has left
            file.write_text(json.dumps(entry["answer"], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return {
            self.table: gr.HTML(answers_table(entries, chosen), visible=len(entries) > 1),
            self.result: result_panel(entry["answer"], entry["problem"], self.searches),
            self.answer_file: gr.DownloadButton(value=file and str(file), interactive=file is not None),
        }

    def choose(self, chosen: int, entries: list[dict]) -> dict:
        """Show another scan of the table."""
        return {self.chosen: chosen, **self._show(entries, chosen)}

    @unless_visitor_left
    def explain(self, entries: list[dict], chosen: int, method: str, progress=PROGRESS) -> dict:
        """Show the chosen scan with its heat map."""
        entry = entries[chosen] if chosen < len(entries) else None
        nothing = {self.viewer: None, self.map_file: gr.DownloadButton(value=None, interactive=False)}
        if entry is None or not entry["answer"] or not Path(entry["path"]).exists():
            return nothing
        done = entry["answer"]["preprocessing"]
        low, high = done["intensity_window"]
        settings = {"low": low, "high": high, "frame": done["frame_corners_mm"], "name": entry["scan"]}
        settings["places"] = listed_places(entry["answer"])
        if not self.explains:
            return nothing | {self.viewer: scene(entry["path"], **settings)}
        from .maps import write_map

        overlay = next_to(entry, f"_{method}_cube.nii.gz")
        with self._turn(place_in_line(progress, entry["path"])):
            peak = write_map(self.model, self.processor, entry, method, overlay)
        return nothing | {self.viewer: scene(entry["path"], str(overlay), peak=peak, **settings)}

    @unless_visitor_left
    def offer_map(self, entries: list[dict], chosen: int, method: str, progress=PROGRESS) -> dict:
        """Offer the heat map on the scan's own voxel grid as a file.

        This is a separate event, so that `explain` shows the map without waiting for the file.
        """
        if chosen >= len(entries) or not entries[chosen]["answer"] or not self.explains:
            return gr.skip()
        from .maps import write_map_on_scan

        entry = entries[chosen]
        cube, file = next_to(entry, f"_{method}_cube.nii.gz"), next_to(entry, f"_{method}.nii.gz")
        with self._turn(place_in_line(progress, entry["path"])):
            write_map_on_scan(self.processor, entry, cube, file)
        return {self.map_file: gr.DownloadButton(value=str(file), interactive=True)}

    def start_over(self, request: gr.Request) -> dict:
        """Delete the visitor's scans and reset the page."""
        self.workspace.clear(request.session_hash)
        no_file = gr.DownloadButton(value=None, interactive=False)
        return {
            self.upload: None,
            self.mask: None,
            **dict.fromkeys(self.further.components),
            self.series: gr.Textbox(value="", visible=False),
            self.entries: [],
            self.chosen: 0,
            self.picker: gr.Dropdown([], value=None, visible=False),
            self.table: gr.HTML(visible=False),
            self.result: result_panel(),
            self.answer_file: no_file,
            self.table_file: no_file,
            self.map_file: no_file,
            self.viewer: None,
        }

    def leave(self, request: gr.Request) -> None:
        """Delete the scans of a visitor who has closed the page."""
        self.workspace.clear(request.session_hash)

    def answer_program(
        self, scan: dict | list[dict] | None, mask: dict | None = None, request: gr.Request = None, progress=PROGRESS
    ) -> dict:
        """Screen one scan, by its T2w image alone. The server deletes it afterwards.

        Args:
            scan: a T2-weighted scan: a NIfTI or MGH file, or a study: a zip or a list of all its DICOM files.
            mask: NIfTI file of its brain mask, only for models that require one.

        Returns:
            `status` "ok" with `p_injury`, `predicted_label`, `threshold`, `warnings` and the other values of the page;
            or `status` "error" with a `message`, one sentence.
        """
        if not scan:
            return {"status": "error", "scan": None, "message": "No scan was sent. Send a file as `scan`."}
        visitor = f"program-{threading.get_ident()}-{request.session_hash}"
        try:
            with self.workspace.present(visitor):
                scans, own_mask, _ = self._take([scan] if isinstance(scan, dict) else scan, mask, visitor)
                if len(scans) > 1:
                    sentence = "Several scans were sent. Send one at a time, or all DICOM files of one study."
                    return {"status": "error", "scan": None, "message": sentence}
                entry = self._entry(scans[0], own_mask, place_in_line(progress, scans[0]), drawn=False)
        finally:
            self.workspace.clear(visitor)
        if entry["problem"]:
            return {"status": "error", "scan": entry["scan"], "message": entry["problem"]}
        return {"status": "ok", **entry["answer"]}
