"""The plan of a phantom cohort: families, ages, scores, injuries, motion and grids, before any image is made.

Ages, birth weight, sex, motion and grid are independent of the labels (motion depends on them only if
`motion_confounding` is set). Their distributions are those of all 128 infants of Table 1 of the paper (arXiv
2606.02498) pooled: GA 32.5 +- 3.4 weeks, birth weight 1.84 +- 0.70 kg, PMA 36.4 +- 3.4 weeks, 61 % male.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace

import numpy as np

from .field_of_view import FieldOfView, draw_field_of_view
from .fields import named_rng
from .grids import Grid, full_grid, small_grid
from .modalities import assign_modalities
from .options import DEFAULT_MISSING
from .pathology import Injury
from .scanners import SCANNERS, family_numbers

DEFAULT_SUBJECTS = {"clear": 48, "dhcp": 128, "null": 48, "diffuse": 48}
INJURED_SHARE = {"clear": 20 / 48, "dhcp": 54 / 128, "null": 20 / 48, "diffuse": 24 / 48}
SCORE_TWO_SHARE = 32 / 74  # of the normal infants
# twin pairs per infant of the cohort
PAIR_SHARE = {"clear": 6 / 48, "dhcp": 20 / 128, "null": 6 / 48, "diffuse": 6 / 48}
EQUAL_PAIR_SHARE = 0.70  # of the twin pairs: both have the same label
# `dhcp` only, relative to the 128 infants and in addition to them
EXTRA_SESSIONS, EXTRA_POOR_INFANTS = 14 / 128, 3 / 128
MOTION_SHARE = 0.125
MALE_SHARE = 78 / 128
POOR_QUALITY = "Q"

_SCORE_FIVE = (  # assigned in turn; score 5 is a major lesion, so each entry has something macroscopic
    (("ventriculomegaly", "moderate"),),
    (("ivh", "major"),),
    (("cystic_pvl", "large"),),
    (("ventriculomegaly", "severe"), ("ivh", "major")),
    (("atrophy", "severe"),),
    (("ventriculomegaly", "severe"),),
    (("cystic_pvl", "large"), ("ventriculomegaly", "mild")),
    (("ivh", "major"), ("ventriculomegaly", "moderate")),
    (("atrophy", "moderate"), ("ventriculomegaly", "mild")),
    (("cystic_pvl", "confluent"), ("ventriculomegaly", "mild")),
    (("ivh", "minor"), ("ventriculomegaly", "moderate")),
    (("atrophy", "severe"), ("ventriculomegaly", "moderate")),
)
# `clear`: cysts, clot and atrophy come with enlarged ventricles, as in patients (blood distends them, and they replace
# lost white matter), so every injury is easy to see.
_CLEAR = (
    (("ventriculomegaly", "severe"),),
    (("ivh", "major"), ("ventriculomegaly", "moderate")),
    (("cystic_pvl", "large"), ("ventriculomegaly", "moderate")),
    (("atrophy", "severe"), ("ventriculomegaly", "moderate")),
    (("ventriculomegaly", "moderate"),),
    (("cystic_pvl", "confluent"), ("ventriculomegaly", "moderate")),
    (("ivh", "major"), ("ventriculomegaly", "severe")),
)


@dataclass(frozen=True)
class PlannedScan:
    """One session to generate.

    Attributes:
        participant_id: as in the release, `CC` + family digits + X / A / B + ...; session_id: digits.
        family_id: the first seven characters of participant_id, shared by twins.
        birth_age, scan_age: weeks; birth_weight: kg; sex: Male or Female; singleton: Single or Multiple.
        radiology_score: text, 1-5 or Q; label: 0, 1, or None for Q.
        injuries: what the image shows. In `null` they are unrelated to the score.
        motion: strength 0-1.
        field_of_view: what the scan shows around the head; None for the whole grid.
        scanner: a name of `SCANNERS`; None for the default acquisition.
        modalities: which images the session has; None in a cohort that has T2w images only.
    """

    participant_id: str
    session_id: str
    family_id: str
    singleton: str
    sex: str
    birth_age: float
    birth_weight: float
    scan_age: float
    scan_number: int
    radiology_score: str
    sedation: int
    injuries: tuple[Injury, ...]
    motion: float
    grid: Grid
    field_of_view: FieldOfView | None = None
    scanner: str | None = None
    modalities: tuple[str, ...] | None = None

    @property
    def label(self) -> int | None:
        """1 for a score of 3 or more, 0 below, None for poor quality."""
        return None if self.radiology_score == POOR_QUALITY else int(int(self.radiology_score) >= 3)


def plan_cohort(
    preset: str = "clear",
    num_subjects: int | None = None,
    seed: int = 42,
    voxel_size: float = 1.25,
    use_full_grid: bool = False,
    motion_confounding: float = 0.0,
    field_of_view: str = "fixed",
    scanner: str | None = None,
    modalities: tuple[str, ...] = ("T2w",),
    missing: float = DEFAULT_MISSING,
) -> list[PlannedScan]:
    """Plan every session of a cohort, sorted by participant and session.

    Args:
        preset: `clear`, `dhcp`, `null` or `diffuse`.
        num_subjects: infants with a labelled first session; 48, 128, 48, 48 by default. `dhcp` adds second sessions and
            infants of poor quality: 14 and 3 per 128.
        motion_confounding: 0 = motion in 12.5 % of the scans, independent of the label; 1 = motion in all scans
            labelled injured and in no others; linear in between.
        field_of_view: `fixed` shows the same part of space in every scan, `varied` draws one for each.
        scanner: the scanner of all scans; its voxels replace `voxel_size`.
        modalities: what is acquired; `missing` is the share of the sessions that lack T1w, and that lack diffusion.
    """
    count = DEFAULT_SUBJECTS[preset] if num_subjects is None else num_subjects
    # `null` is the cohort of `clear` with permuted labels
    name = "clear" if preset == "null" else preset
    labels, families = _assign_labels(named_rng(seed, name, "labels"), count, name)
    scans = _draw_infants(named_rng(seed, name, "infants"), families, scanner)
    scores, injuries = _assign_scores(named_rng(seed, name, "scores"), labels, name)
    scans = [replace(scan, radiology_score=s, injuries=i) for scan, s, i in zip(scans, scores, injuries, strict=True)]
    if preset == "null":
        order = _permuted_over_families(named_rng(seed, "null", "permutation"), families)
        scans = [replace(scan, radiology_score=scores[k]) for scan, k in zip(scans, order, strict=True)]
    if preset == "dhcp":
        scans += _second_sessions(named_rng(seed, name, "second"), scans, round(EXTRA_SESSIONS * count))
        scans += _poor_infants(named_rng(seed, name, "poor"), scans, round(EXTRA_POOR_INFANTS * count), scanner)
    scans = _assign_motion(named_rng(seed, name, "motion"), scans, motion_confounding)
    grids = [
        full_grid(named_rng(seed, "grid", s.participant_id, s.session_id)) if use_full_grid else small_grid(voxel_size)
        for s in scans
    ]
    scans = [replace(scan, grid=grid) for scan, grid in zip(scans, grids, strict=True)]
    if scanner is not None:
        scans = [replace(scan, grid=SCANNERS[scanner].grid(), scanner=scanner) for scan in scans]
    if field_of_view == "varied":
        scans = [
            replace(scan, field_of_view=draw_field_of_view(seed, scan.participant_id, scan.session_id))
            for scan in scans
        ]
    if len(modalities) > 1 or preset == "diffuse":
        scans = assign_modalities(named_rng(seed, name, "modalities"), scans, modalities, missing)
    return sorted(scans, key=lambda scan: (scan.participant_id, scan.session_id))


def _assign_labels(rng: np.random.Generator, count: int, preset: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (count,) and family numbers (count,). Twins are adjacent, families are in random order."""
    injured = min(max(round(INJURED_SHARE[preset] * count), 1), count - 1)
    pairs = round(PAIR_SHARE[preset] * count)
    equal = round(EQUAL_PAIR_SHARE * pairs)
    # The same share of injured among twins and singletons, rounded at random: being a twin must not predict the label.
    both = min(max(int((pairs * injured / count) - (pairs - equal) / 2 + rng.random()), 0), equal)
    groups: list[tuple[int, ...]] = [*[(1, 1)] * both, *[(0, 0)] * (equal - both)]
    groups += [(0, 1) if rng.random() < 0.5 else (1, 0) for _ in range(pairs - equal)]
    single_injured = injured - sum(map(sum, groups))
    single = count - 2 * pairs
    groups += [(1,)] * single_injured + [(0,)] * (single - single_injured)
    groups = [groups[k] for k in rng.permutation(len(groups))]
    labels = np.array([label for group in groups for label in group])
    families = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return labels, families


def _draw_infants(
    rng: np.random.Generator, families: np.ndarray, scanner: str | None, taken: tuple[str, ...] = ()
) -> list[PlannedScan]:
    """Draw identity and birth data, one planned scan per infant, independent of the labels."""
    number = int(families.max()) + 1
    birth_ages, scan_ages = _draw_ages(rng, number)
    count = families.size
    sexes = np.array(["Male"] * round(MALE_SHARE * count) + ["Female"] * (count - round(MALE_SHARE * count)))
    sexes = sexes[rng.permutation(count)]
    codes = [c for c in rng.permutation(family_numbers(scanner)) if f"CC{c}" not in taken][:number]
    sessions = rng.permutation(np.arange(10000, 80000))
    sizes = np.bincount(families)
    scans = []
    for position, family in enumerate(families):
        first = position == 0 or families[position - 1] != family
        twin = sizes[family] > 1
        letter = ("A" if first else "B") if twin else "X"
        tail = f"{string.ascii_uppercase[int(rng.integers(26))]}{int(rng.integers(5, 25)):02d}"
        weight = _birth_weight(birth_ages[family], float(rng.standard_normal()), twin)
        scans.append(
            PlannedScan(
                participant_id=f"CC{codes[family]}{letter}{tail}",
                session_id=str(sessions[position]),
                family_id=f"CC{codes[family]}",
                singleton="Multiple" if twin else "Single",
                sex=str(sexes[position]),
                birth_age=round(float(birth_ages[family]), 2),
                birth_weight=round(weight, 2),
                scan_age=round(float(scan_ages[family]), 2),
                scan_number=1,
                radiology_score="1",
                sedation=int(rng.random() < 0.03),
                injuries=(),
                motion=0.0,
                grid=small_grid(),
            )
        )
    return scans


def _draw_ages(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw gestational and post-menstrual age of each family in weeks.

    They follow Beta distributions on 23-36.9 and 29-45 with the moments of Table 1, stratified so that small cohorts
    have these moments too. Every scan is at least two days after birth.
    """
    birth = np.sort(23.0 + 13.9 * rng.beta(1.96, 0.90, size=(400, number)), axis=1).mean(axis=0)
    scan = np.sort(29.0 + 16.0 * rng.beta(2.01, 2.36, size=(400, number)), axis=1).mean(axis=0)
    ages = np.empty(number)
    free = list(scan)
    for k in range(number - 1, -1, -1):  # oldest first: it has the fewest possible scan ages
        later = [i for i, age in enumerate(free) if age >= birth[k] + 0.3]
        ages[k] = free.pop(int(rng.choice(later))) if later else max(free.pop(), birth[k] + 0.3)
    order = rng.permutation(number)
    return birth[order], ages[order]


def _birth_weight(birth_age: float, z: float, twin: bool) -> float:
    """Birth weight in kg for a gestational age: exponential growth of 11.5 % per week, SD 14 %, twins 4 % lighter."""
    return float(
        np.clip(1.59 * np.exp(0.115 * (birth_age - 32.0) + 0.14 * np.clip(z, -2.2, 2.2)), 0.45, 4.0)
        * (0.97 if twin else 1.01)
    )


def _assign_scores(
    rng: np.random.Generator, labels: np.ndarray, preset: str
) -> tuple[list[str], list[tuple[Injury, ...]]]:
    """Assign each infant a radiology score and injuries that match its label."""
    scores = [""] * labels.size
    injuries: list[tuple[Injury, ...]] = [()] * labels.size
    normal = rng.permutation(np.flatnonzero(labels == 0))
    for rank, k in enumerate(normal):
        scores[k] = "2" if rank < round(SCORE_TWO_SHARE * normal.size) else "1"
    injured = rng.permutation(np.flatnonzero(labels == 1))
    punctate = round(29 / 54 * injured.size) if preset == "dhcp" else 0
    outside = round(2 / 54 * injured.size) if preset == "dhcp" else 0
    table = _SCORE_FIVE if preset == "dhcp" else _CLEAR
    for rank, k in enumerate(injured):
        if rank < punctate:
            scores[k] = "3"
            injuries[k] = (Injury("punctate", "many" if rank % 2 else "few", _side(rng)),)
        elif rank < punctate + outside:
            scores[k] = "4"  # a finding outside the brain: the brain looks normal
        elif preset == "diffuse":
            severity = ("mild", "moderate")[rank % 2]
            scores[k], injuries[k] = ("3", "5")[rank % 2], (Injury("diffuse_wmi", severity),)
        else:
            scores[k] = "5"
            chosen = table[(rank - punctate - outside) % len(table)]
            side = _side(rng)
            injuries[k] = tuple(Injury(n, s, "both" if n == "atrophy" else side) for n, s in chosen)
    return scores, injuries


def _side(rng: np.random.Generator) -> str:
    return ("both", "both", "left", "right")[int(rng.integers(4))]


def _permuted_over_families(rng: np.random.Generator, families: np.ndarray) -> np.ndarray:
    """For each infant, the index of the infant whose score it gets: families of equal size exchange their scores.

    The permutation is not selected for balance. With 48 scans, labels and injury may stay correlated by 0.3, which can
    be learnt. Selecting a balanced permutation is worse: if labels are balanced over all folds, then the training scans
    of each fold are unbalanced in the opposite direction of its held-out scans, and every classifier does far worse
    than chance. Judge a null cohort by its permutation distribution.
    """
    order = np.arange(families.size)
    sizes = np.bincount(families)
    for size in np.unique(sizes):
        members = np.array([np.flatnonzero(families == f) for f in np.flatnonzero(sizes == size)])
        order[members] = members[rng.permutation(len(members))]
    return order


def _second_sessions(rng: np.random.Generator, scans: list[PlannedScan], count: int) -> list[PlannedScan]:
    """Draw second sessions of infants whose first scan was early; each has its own score.

    Injuries stay, punctate lesions disappear in half of the infants, and a normal infant rarely gets an injury. About
    one in ten sessions is of poor quality.
    """
    early = [scan for scan in scans if scan.scan_age < 38.0]
    later_ids = rng.permutation(np.arange(80000, 100000))  # session numbers increase with time
    sessions = []
    for rank, k in enumerate(rng.permutation(len(early))[:count]):
        first = early[k]
        age = round(float(min(rng.uniform(first.scan_age + 3.0, first.scan_age + 9.0), 44.5)), 2)
        score, injuries = first.radiology_score, first.injuries
        if score == "3" and rng.random() < 0.5:
            score, injuries = "1", ()
        elif score in ("1", "2"):
            score = "5" if rng.random() < 0.12 else ("1", "2")[int(rng.integers(2))]
            injuries = (Injury("ventriculomegaly", "moderate"),) if score == "5" else ()
        if rank % 10 == 5:
            score = POOR_QUALITY
        sessions.append(
            replace(
                first,
                session_id=str(later_ids[rank]),
                scan_age=age,
                scan_number=2,
                radiology_score=score,
                injuries=injuries,
            )
        )
    return sessions


def _poor_infants(
    rng: np.random.Generator, scans: list[PlannedScan], count: int, scanner: str | None
) -> list[PlannedScan]:
    """Draw infants whose only session is of poor quality."""
    if not count:
        return []
    taken = tuple(scan.family_id for scan in scans)
    infants = _draw_infants(rng, np.arange(count), scanner, taken)
    return [replace(scan, radiology_score=POOR_QUALITY) for scan in infants]


def _assign_motion(rng: np.random.Generator, scans: list[PlannedScan], confounding: float) -> list[PlannedScan]:
    """Assign motion to 12.5 % of the scans; with `confounding`, to more of the injured and fewer of the normal."""
    labels = np.array([-1 if scan.label is None else scan.label for scan in scans])
    strengths = rng.uniform(0.4, 1.0, labels.size)
    moved = np.zeros(labels.size, dtype=bool)
    order = rng.permutation(labels.size)
    if confounding == 0:
        for number in {scan.scan_number for scan in scans}:
            group = np.array([k for k in order if labels[k] >= 0 and scans[k].scan_number == number])
            moved[group[: round(MOTION_SHARE * group.size)]] = True
    else:
        shares = {1: MOTION_SHARE + confounding * (1 - MOTION_SHARE), 0: MOTION_SHARE * (1 - confounding)}
        for label, share in shares.items():
            group = order[labels[order] == label]
            moved[group[: round(share * group.size)]] = True
    strengths = np.where(labels < 0, 1.0, np.where(moved, strengths, 0.0))  # poor quality means full motion
    return [replace(scan, motion=round(float(s), 3)) for scan, s in zip(scans, strengths, strict=True)]
