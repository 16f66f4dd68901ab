"""The fields for the further images of a scan (T1w, FA, MD), on the page of a model that takes them."""

from pathlib import Path
from typing import Any

import gradio as gr

from .scans import MGH, NIFTI, UploadError, take
from .workspace import Workspace

MATRIX = (".mat", ".txt")
MOVED = ("FA", "MD")  # diffusion has a grid of its own, and a transform to the T2w scan
HINT = (
    "This model also takes {names} of the same session. They are optional: add them first, because the scan is screened"
    " as soon as it is uploaded. Without them, the answer rests on T2w alone."
)


class FurtherFields:
    """One optional field per modality besides T2w, and one for FLIRT's matrix of the diffusion maps.

    Args:
        modalities: those that the model takes.
    """

    def __init__(self, modalities: list[str]):
        self.names = modalities[1:]
        self.images: dict[str, gr.File] = {}
        self.matrix: gr.File | None = None

    def lay_out(self) -> None:
        """Put the fields into the current column. A model that takes T2w alone has none."""
        if not self.names:
            return
        named = " and ".join([", ".join(self.names[:-1]), self.names[-1]] if self.names[1:] else self.names)
        gr.Markdown(HINT.format(names=named))
        common: dict[str, Any] = {"height": 110, "min_width": 320}  # one per line, so that file names fit
        with gr.Row(elem_id="further"):
            for name in self.names:
                label = f"{name} (NIfTI, MGH), optional"
                self.images[name] = gr.File(label=label, file_types=[*NIFTI, *MGH], elem_id=name.lower(), **common)
            if moved := [name for name in self.names if name in MOVED]:
                label = f"FLIRT matrix, {' and '.join(moved)} to T2w, optional"
                self.matrix = gr.File(label=label, file_types=[*MATRIX], elem_id="transform", **common)

    @property
    def components(self) -> list[gr.File]:
        """The fields as inputs of an event: the images in the order of the modalities, then the matrix."""
        return [*self.images.values(), *([self.matrix] if self.matrix else [])]

    def take(self, uploads: tuple[dict | None, ...], scans: int, visitor: str, workspace: Workspace) -> dict[str, list]:
        """Move the uploads of `components` into the visitor's folders.

        Args:
            uploads: one per component, None for an empty field.
            scans: how many T2w scans were uploaded with them.
            visitor, workspace: see `take`.

        Returns:
            Modality -> the path of its image, and that of its matrix or None.

        Raises:
            UploadError: a file is gone or of another kind, the matrix has no image, or there are several scans.
        """
        if not any(uploads):
            return {}
        if scans > 1:
            raise UploadError(f"The further images belong to one scan, but {scans} were uploaded. Upload one of them.")
        matrix = uploads[len(self.names)] if self.matrix else None
        given = {name: upload for name, upload in zip(self.names, uploads, strict=False) if upload}
        for upload, kinds in [*((image, (*NIFTI, *MGH)) for image in given.values()), (matrix, MATRIX)]:
            if upload and not upload["path"].lower().endswith(kinds):
                raise UploadError(f"{Path(upload['path']).name} is none of {', '.join(kinds)}. Choose another file.")
        if matrix and not any(name in given for name in MOVED):
            raise UploadError("The transform has no image. Add FA or MD as well, or take the transform out.")
        moved = take(matrix, visitor, workspace) if matrix else None
        return {
            name: [take(upload, visitor, workspace), moved if name in MOVED else None] for name, upload in given.items()
        }
