"""Which series of a delivery are T2-weighted, from their headers."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from .headers import Frame, Instance
from .thresholds import EXCLUDED_TYPES, MAX_INVERSION_TIME, MIN_ECHO_TIME, MIN_REPETITION_TIME, OTHER_BODY_PARTS

NAMED_T1 = re.compile(r"T1(?!\d)")
NAMED_FLAIR = re.compile(r"FLAIR|DARK.?FLUID")
NAMED_T2 = re.compile(r"(?<![A-Z0-9])T2(?!\d|\*|.?STAR)")
NAMED_OTHERWISE = re.compile(r"LOC|SCOUT|SURVEY|MAP|DWI|DIFF|DTI|SWI|GRE|FFE|FLASH|EPI|BOLD|PERF|ANGIO|TOF")


class Verdict(NamedTuple):
    """Whether a series is T2-weighted; `why` says what speaks against it, in words that are not the header's."""

    t2w: Literal["yes", "unknown", "no"]
    why: str = ""


def judge(series: Sequence[Instance]) -> Verdict:
    """Judge a series. It counts as T2-weighted if one of its slices does: later checks refuse it if they differ."""
    verdicts = {judge_slice(instance, frame) for instance in series for frame in instance.frames}
    for answer in ("yes", "unknown", "no"):
        for verdict in sorted(verdicts):
            if verdict.t2w == answer:
                return verdict
    return Verdict("no", "without slices")


def judge_slice(instance: Instance, frame: Frame) -> Verdict:
    """Judge one slice.

    AcquisitionContrast decides if the header has it. Otherwise a T2w slice is a spin echo, not echo-planar, with long
    repetition and echo times. The description counts only against a slice, unless a time is missing.
    """
    for value in frame.types:
        if value in EXCLUDED_TYPES or value.endswith(" MAP"):
            return Verdict("no", EXCLUDED_TYPES.get(value, "a map"))
    if frame.diffusion:
        return Verdict("no", "diffusion-weighted")
    if any(part in instance.body_part for part in OTHER_BODY_PARTS):
        return Verdict("no", "of another part of the body")
    if NAMED_FLAIR.search(instance.names):
        return Verdict("no", "FLAIR by its name")
    if NAMED_T1.search(instance.names) and not NAMED_T2.search(instance.names):
        return Verdict("no", "T1-weighted by its name")
    if "EP" in instance.sequence:
        return Verdict("no", "echo-planar")
    inversion = frame.inversion_time
    if inversion is not None and inversion >= MAX_INVERSION_TIME:
        return Verdict("no", f"with an inversion time of {inversion:g} ms (from {MAX_INVERSION_TIME:g} on it is FLAIR)")
    if frame.contrast == "T2":
        return Verdict("yes")
    if frame.contrast not in ("", "UNKNOWN", "MIXED"):
        return Verdict("no", "not T2 by its acquisition contrast")
    if instance.sequence and "SE" not in instance.sequence:
        return Verdict("no", "not a spin echo")
    if "IR" in instance.sequence and inversion is None:
        return Verdict("no", "an inversion recovery without its inversion time")
    times = (
        ("a repetition time", frame.repetition_time, MIN_REPETITION_TIME),
        ("an echo time", frame.echo_time, MIN_ECHO_TIME),
    )
    for what, time, least in times:
        if time is not None and 0 < time < least:
            return Verdict("no", f"with {what} of {time:g} ms (a T2-weighted one has at least {least:g})")
    if instance.sequence and all(time for _, time, _ in times):
        return Verdict("yes")
    if NAMED_T2.search(instance.names) and not NAMED_OTHERWISE.search(instance.names):
        return Verdict(
            "yes", "The series was chosen by its name: its header lacks echo time, repetition time or sequence."
        )
    return Verdict("unknown", "without echo time, repetition time or sequence, and not T2 by its name")
