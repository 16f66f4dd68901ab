"""Is this a newborn, as far as the header tells? MR headers do not have the gestational age at birth."""

import datetime
import re

from .headers import Instance
from .thresholds import MAX_AGE

DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
UNKNOWN = "The header does not give the patient's age: the method is for newborns."


def age_in_days(instance: Instance) -> float | None:
    """From the dates of birth and of the study, else from PatientAge; None if neither is usable."""
    days = [_date(text) for text in (instance.born, instance.study_date)]
    if days[0] is not None and days[1] is not None and days[0] <= days[1]:
        return float((days[1] - days[0]).days)
    found = re.fullmatch(r"(\d{1,3})([DWMY])", instance.age.strip().upper())
    return int(found[1]) * DAYS[found[2]] if found else None


def too_old(instance: Instance) -> bool:
    age = age_in_days(instance)
    return age is not None and age >= MAX_AGE


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text.strip().replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
