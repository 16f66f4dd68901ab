"""Where the model looked, as a Parametric Map on the slices of the source."""

from typing import Any

import numpy as np

from .report import code, description
from .software import MAKER, NAME, Software
from .study import ScreenedStudy, is_multi_frame


def make_map(study: ScreenedStudy, software: Software, uids: dict[str, str], number: int) -> Any:
    """
    Args:
        study: from `screen_study`, with a map.
        software: which model answered.
        uids: `map series` and `map`.
        number: of the new series.

    Returns:
        A dataset with float32 pixels, one frame for each slice of the source. Its frames may be in another order: read
        it by their positions.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    assert study.heat is not None
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="evidence",
        lut_explanation="Relative evidence for injury, 1 at its maximum, not calibrated",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1,
        intercept=0,
        quantity_definition=code("class-activation", "Class activation map"),
    )
    # highdicom takes one multi-frame file as the source, and names the others of a concatenation as further sources
    count = 1 if any(map(is_multi_frame, study.sources)) else len(study.sources)
    volume = hd.Volume(np.ascontiguousarray(study.heat), study.affine, coordinate_system="PATIENT")
    found = hd.pm.ParametricMap(
        study.sources[:count],
        volume,
        series_instance_uid=uids["map series"],
        series_number=number,
        sop_instance_uid=uids["map"],
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=NAME,
        software_versions=software.version,
        device_serial_number=software.digest,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        further_source_images=study.sources[count:] or None,
        content_label="EVIDENCE",
        content_description="Where the model looked, not an outline of a lesion",
        series_description=description("map", software),
    )
    found.BodyPartExamined = "BRAIN"
    return found
