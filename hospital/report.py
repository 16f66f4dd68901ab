"""The answer as a Structured Report: TID 1500, a Comprehensive 3D SR (PS3.16)."""

from collections.abc import Sequence
from typing import Any

from screening.modalities import missing_and_doubts

from .software import MAKER, NAME, Software, make_uid
from .study import ScreenedStudy

SCHEME = "99GLORESNET"  # of our own codes; DICOM has none for these
PLACES = 5  # of the local stream that are listed


def make_report(
    study: ScreenedStudy, software: Software, uids: dict[str, str], number: int, previous: Sequence[Any] = ()
) -> Any:
    """
    Args:
        study: from `screen_study`.
        software: which model answered.
        uids: `report series` and `report`.
        number: of the new series.
        previous: datasets with the UIDs of the reports that this one replaces.

    Returns:
        A dataset: complete, preliminary, unverified.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    answer, label = study.answer, study.answer["predicted_label"]
    sentences = comments(study, software)
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=make_uid("device", software.digest),
        name=NAME,
        manufacturer_name=MAKER,
        model_name=NAME,
        serial_number=software.digest,
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=make_uid("answer", uids["report"]), identifier="Screening of the T2-weighted series"
        ),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=NAME, version=software.version, parameters=parameters(study, software)
        ),
        finding_sites=[hd.sr.FindingSite(anatomic_location=hd.sr.CodedConcept("12738006", "SCT", "Brain"))],
        measurements=[
            hd.sr.Measurement(name=code(*name), value=float(f"{value:.9g}"), unit=codes.UCUM.NoUnits)
            for name, value in numbers(answer)
        ],
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(name=code(*name), value=code(*value))
            for name, value in (
                (
                    ("answer", "Answer of the model"),
                    ("at-or-above", f"{label}: at or above the threshold")
                    if answer["p_injury"] >= answer["threshold"]
                    else ("below", f"{label}: below the threshold"),
                ),
                (
                    ("calibration", "Calibration of the probability"),
                    ("calibrated", "Calibrated") if answer["calibrated"] else ("uncalibrated", "Not calibrated"),
                ),
            )
        ],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source) for source in study.sources],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.BrainMRI,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    items = content[0].ContentSequence
    first = next(place for place, item in enumerate(items) if item.RelationshipType == "CONTAINS")
    for place, sentence in enumerate(sentences):
        text = hd.sr.TextContentItem(codes.DCM.Comment, sentence, hd.sr.RelationshipTypeValues.CONTAINS)
        items.insert(first + place, text)
    return hd.sr.Comprehensive3DSR(
        evidence=study.sources,
        content=content,
        series_instance_uid=uids["report series"],
        series_number=number,
        sop_instance_uid=uids["report"],
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=NAME,
        software_versions=software.version,
        device_serial_number=software.digest,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=list(previous) or None,
        series_description=description("report", software),
    )


def comments(study: ScreenedStudy, software: Software) -> list[str]:
    """What a reader must know: phantoms, research use, every warning, missing modalities, how to read the numbers."""
    answer = study.answer
    missing, doubts = missing_and_doubts(answer)
    sentences = [software.doubt] if software.doubt else []
    sentences.append(answer["notice"])
    sentences += [f"Warning: {warning}" for warning in doubts]
    if doubts:
        sentences.append("Do not rely on a probability with warnings.")
    if missing:
        sentences.append(missing)
    if not answer["calibrated"]:
        sentences.append("The probability is not calibrated: it ranks scans, it is no frequency.")
    if study.heat is None:
        sentences.append("This kind of model gives no map of where it looked.")
    if spoke_locally(answer):
        sentences.append(
            "Besides the global stream, a local stream judged small places. The map shows the global stream only. "
            "The global stream says 0.5 where it has seen nothing, so it counts only above that. "
            f"Suspicious places of the local stream, at most {PLACES}, in mm of the patient's coordinates in DICOM:"
        )
        sentences += [place_words(rank, place) for rank, place in enumerate(answer["places"][:PLACES], start=1)]
    elif global_stream_differs(answer):
        sentences.append(
            "Only the global stream gave this answer. It says 0.5 where it has seen nothing, "
            "so it counts only above that."
        )
    return sentences


def spoke_locally(answer: dict[str, Any]) -> bool:
    """Whether another stream than the global one has a part in the probability."""
    return answer["streams"] != ["global"]


def global_stream_differs(answer: dict[str, Any]) -> bool:
    """Whether the probability is not the global stream's own: there is a local stream, which may be silent."""
    return answer["p_global"] != answer["p_injury"]


def place_words(rank: int, place: dict[str, Any]) -> str:
    """One suspicious place. Its position is turned from right, anterior, superior to the directions of DICOM."""
    right, anterior, superior = place["position_mm"]
    return (
        f"Place {rank}: probability {place['probability']:.3f}, {place['side']},"
        f" x {-right:.1f}, y {-anterior:.1f}, z {superior:.1f}"
    )


def numbers(answer: dict[str, Any]) -> list[tuple[tuple[str, str], float]]:
    """The measurements, with their codes."""
    p_global = answer["p_global"] if global_stream_differs(answer) else None
    found = [
        (("probability", "Probability of injury"), answer["p_injury"]),
        (("threshold", "Threshold of the probability"), answer["threshold"]),
        (("probability-scan", "Probability from the scan as it is"), answer["p_injury_no_tta"]),
        (("probability-mirrored", "Probability from its mirror image"), answer["p_injury_mirrored"]),
        (("view-spread", "Difference between both views"), answer["view_spread"]),
        (("member-spread", "Standard deviation over the ensemble"), answer["member_spread"]),
        (("stream-global", "Probability from the global stream alone"), p_global),
        (("stream-local", "Probability from the local stream alone"), answer["p_local"]),
        (("stream-shares", "Probability from the intensity shares alone"), answer["p_shares"]),
    ]
    return [(name, value) for name, value in found if value is not None]


def parameters(study: ScreenedStudy, software: Software) -> list[str]:
    """How the number was made, as `name: value`."""
    answer, model = study.answer, study.answer["model"]
    least = "at least " if model.get("train_scans_at_least") else ""
    cohort = f"{least}{model.get('train_scans')} scans of {model.get('cohort', 'an unnamed cohort')}"
    return [
        f"model sha256: {software.digest}",
        f"trained on: {cohort if model.get('train_scans') else 'nothing, the weights are random'}",
        f"trained on synthetic phantoms: {'yes' if model.get('synthetic') else 'no'}",
        f"trained on painted injuries: {'yes' if model.get('painted') else 'no'}",
        f"streams that spoke: {', '.join(answer['streams'])}",
        f"image size: {model['image_size']}",
        f"temperature: {answer['temperature']:g}",
        f"brain mask: {answer['preprocessing']['brain_mask']}",
        f"framing: {answer['preprocessing']['framing']}",
        f"bias correction: {answer['preprocessing']['bias_correction']}",
    ]


def code(value: str, meaning: str) -> Any:
    """A code of our own; values have at most 16 letters."""
    import highdicom as hd

    return hd.sr.CodedConcept(value[:16], SCHEME, meaning)


def description(what: str, software: Software) -> str:
    """A SeriesDescription, which lists of a PACS show: at most 64 letters."""
    kind = f"{software.doubt_in_short}, " if software.doubt else ""
    return f"{kind}{NAME} {what}, research, not for diagnosis"
