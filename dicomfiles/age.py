"""Is this a newborn, as far as the header tells? MR headers do not have the gestational age at birth."""

import datetime
import re

from .headers import Instance
from .thresholds import MAX_AGE

DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
UNKNOWN = "The header does not give the patient's age: the method is for newborns."
CONTRADICTED = (
    "The birth date makes the patient a year old or older, but PatientAge says less and counts: make sure that this is"
    " a newborn."
)


def age_in_days(instance: Instance) -> float | None:
    """From PatientAge, else from the dates of birth and of the study; None if neither is usable.

    PatientAge is the age at the scan. De-identification often replaces the birth date, by 19000101 or the first day of
    a year, and keeps PatientAge. A PatientAge of 0 may be a placeholder as well, so the dates go before it.
    """
    stated, dated = _stated(instance), _from_dates(instance)
    return dated if not stated and dated is not None else stated


def too_old(instance: Instance) -> bool:
    age = age_in_days(instance)
    return age is not None and age >= MAX_AGE


def contradicted(instance: Instance) -> bool:
    """Whether the patient is below a year by PatientAge, which counts, and not by the dates."""
    dated = _from_dates(instance)
    return dated is not None and dated >= MAX_AGE and not too_old(instance)


def _stated(instance: Instance) -> float | None:
    found = re.fullmatch(r"(\d{1,3})([DWMY])", instance.age.strip().upper())
    return int(found[1]) * DAYS[found[2]] if found else None


def _from_dates(instance: Instance) -> float | None:
    born, study = _date(instance.born), _date(instance.study_date)
    return float((study - born).days) if born is not None and study is not None and born <= study else None


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text.strip().replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
