"""Choose the one T2w series of a delivery, or say why there is none."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .contrast import Verdict, judge
from .delivery import File, Opened
from .errors import SeriesError
from .headers import Damaged, Header, Headers, Instance
from .stacking import plane_of
from .thresholds import MIN_SLICES

LONGEST_NUMBER = 12  # characters of an IS, DICOM PS3.5
LISTED = 6  # series named in a message
Series = list[Instance]


def find_series(files: Iterable[File], opened: Opened, where: str) -> dict[str, Series]:
    """The MR instances of a delivery by SeriesInstanceUID.

    Raises:
        SeriesError: a DICOM file is damaged, there are several patients or no MR image, or an instance is there twice
            with different content.
    """
    headers, reader, damaged = [], Headers(opened), []
    for file in files:
        try:
            header = reader.read(file)
        except Damaged as error:
            damaged.append(str(error))
            continue
        if header is not None:
            headers.append(header)
    if damaged:
        # one of them may be a slice of the series
        raise SeriesError(
            f"{where} has {len(damaged)} damaged DICOM file(s), the first of which {damaged[0]}:"
            " copy or export it again."
        )
    instances = _one_patient(headers, where)
    return _by_series(_each_once(instances, opened, where))


def _one_patient(headers: Sequence[Header], where: str) -> Series:
    patients = {header.patient for header in headers} - {""}
    instances = [header.instance for header in headers if header.instance is not None]
    if len(patients) > 1:
        raise SeriesError(f"{where} has DICOM files of {len(patients)} patients: give those of one.")
    if not headers:
        raise SeriesError(
            f"{where} has no DICOM file (Part 10 of the standard, with DICM after 128 bytes): check the path."
        )
    if all(header.directory for header in headers):
        raise SeriesError(
            f"{where} holds no image, only a DICOMDIR (a list of files): give the folder with these files."
        )
    if not instances:
        raise SeriesError(f"{where} has {len(headers)} DICOM file(s), but no MR image: give the T2-weighted series.")
    return instances


def _each_once(instances: Series, opened: Opened, where: str) -> Series:
    """Without the copies of an instance."""
    same: dict[str, Series] = defaultdict(list)
    for instance in instances:
        if not instance.uid or not instance.series:
            raise SeriesError(f"{where} has an MR image without the UID of itself or its series: export it again.")
        same[instance.uid].append(instance)
    for copies in same.values():
        if len(copies) > 1 and len({hashlib.sha256(opened.read(copy.file)).digest() for copy in copies}) > 1:
            raise SeriesError(
                f"{where} has {len(copies)} different images under one SOPInstanceUID, so slices may be lost:"
                " export it again."
            )
    return [copies[0] for copies in same.values()]


def _by_series(instances: Series) -> dict[str, Series]:
    series: dict[str, Series] = defaultdict(list)
    for instance in instances:
        series[instance.series].append(instance)
    return dict(series)


def choose(series: dict[str, Series], wanted: str | None, where: str) -> tuple[Series, list[str]]:
    """The one T2w series, and warnings about this choice.

    Args:
        series: from `find_series`.
        wanted: SeriesNumber or SeriesInstanceUID; None takes the only one that fits.
        where: what to call the delivery in messages.

    Raises:
        SeriesError: none fits, or several do.
    """
    verdicts = {uid: judge(instances) for uid, instances in series.items()}
    if wanted is not None:
        uid = _wanted(series, wanted, where)
        if verdicts[uid].t2w == "no":
            raise SeriesError(
                f"{where}: the series asked for is {verdicts[uid].why}, not T2-weighted: choose another (--series)."
            )
    else:
        uid = _only(series, verdicts, where)
    chosen, verdict, warnings = series[uid], verdicts[uid], []
    if any(instance.burned_in for instance in chosen):
        raise SeriesError(f"{where}: the T2-weighted series has text burnt into its pixels: give the original series.")
    if verdict.t2w == "unknown":
        warnings.append("The header does not say that this series is T2-weighted: it was asked for.")
    elif verdict.why:
        warnings.append(verdict.why)
    if is_derived(chosen):
        warnings.append("The series is derived from another one, which is not used: it may be filtered or resampled.")
    return chosen, warnings


def _wanted(series: dict[str, Series], wanted: str, where: str) -> str:
    if wanted in series:
        return wanted
    number = int(wanted) if wanted.isdecimal() and len(wanted) <= LONGEST_NUMBER else None
    found = [uid for uid, instances in series.items() if number is not None and instances[0].number == number]
    if len(found) == 1:
        return found[0]
    if found:
        raise SeriesError(
            f"{where} has {len(found)} series with the number asked for: give the SeriesInstanceUID of one (--series)."
        )
    raise SeriesError(
        f"{where} has no MR series of the number or UID asked for: it has {listing(series)}. Choose one (--series)."
    )


def _only(series: dict[str, Series], verdicts: dict[str, Verdict], where: str) -> str:
    fitting = {uid: series[uid] for uid, verdict in verdicts.items() if verdict.t2w == "yes"}
    originals = {uid: instances for uid, instances in fitting.items() if not is_derived(instances)}
    candidates = originals or fitting
    if not candidates:
        unclear = any(verdict.t2w == "unknown" for verdict in verdicts.values())
        advice = "If one of them is, choose it by its number (--series)" if unclear else "Give another delivery"
        raise SeriesError(
            f"{where} has no T2-weighted series among its {len(series)} of MR: {listing(series, verdicts)}. {advice}."
        )
    whole = {uid: instances for uid, instances in candidates.items() if slices(instances) >= MIN_SLICES}
    candidates = whole or candidates
    if len(candidates) > 1:
        raise SeriesError(
            f"{where} has {len(candidates)} T2-weighted series: {listing(candidates)}. Choose one by its number"
            " (--series)."
        )
    return next(iter(candidates))


def listing(series: dict[str, Series], verdicts: dict[str, Verdict] | None = None) -> str:
    """Series in words that name no patient: number, plane, slices and spacing, or what speaks against it."""
    words = []
    for uid, instances in sorted(series.items(), key=lambda item: (item[1][0].number or 0, item[0])):
        number = instances[0].number
        about = verdicts[uid].why if verdicts else describe(instances)
        words.append(f"series {'without a number' if number is None else number} ({about})")
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return ", ".join(words[:LISTED]) + more


def describe(instances: Series) -> str:
    """Plane, slices and pixel spacing of a series."""
    frames = [frame for instance in instances for frame in instance.frames]
    plane = plane_of(frames[0].orientation) if frames else ""
    spacing = " x ".join(f"{edge:.3g}" for edge in frames[0].spacing) if frames else ""
    words = [plane, f"{len(frames)} slice(s)", f"pixels of {spacing} mm" if spacing else ""]
    return ", ".join(word for word in words if word)


def slices(instances: Series) -> int:
    return sum(len(instance.frames) for instance in instances)


def is_derived(instances: Series) -> bool:
    """Whether a series says that it was computed from another one."""
    return any("DERIVED" in frame.types for instance in instances for frame in instance.frames)
