"""Sensitivity by size and contrast of painted injuries, against arithmetic by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cohort.painted import Settings, paint_cohort
from cohort.phantom import generate_phantom_cohort
from cohort.scans import find_scans
from evaluation.external import read_external
from evaluation.painted import nearest_named
from evaluation.sensitivity import main, sensitivity_curve
from evaluation.uncertainty import Resampling
from evaluation.wording import PAINTED, banners, limits, paper_sentence


def scans(rows: list[tuple]) -> pd.DataFrame:
    names = ["family", "kind", "diameter_mm", "contrast", "volume_factor", "p_injury"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(participant_id=table["family"], session_id=[f"{n}" for n in range(len(table))], named=np.nan)


def normals(values) -> list[tuple]:
    return [(f"F{n}", "none", np.nan, np.nan, np.nan, value) for n, value in enumerate(values)]


def test_the_threshold_comes_from_the_unpainted_scans() -> None:
    spots = [("F0", "spot", 2.0, 0.1, np.nan, 0.85), ("F1", "spot", 2.0, 0.2, np.nan, 0.95)]
    spots += [("F2", "spot", 3.0, 0.1, np.nan, 0.91), ("F3", "spot", 3.0, 0.2, np.nan, 0.99)]
    wide = [("F4", "ventricles", np.nan, np.nan, 2.02, 0.2), ("F5", "ventricles", np.nan, np.nan, 1.98, 0.99)]
    curve = sensitivity_curve(scans(normals(np.arange(10) / 10) + spots + wide), 0.9, Resampling(200))
    # nine of ten at or below 0.8; a scan is called above it
    assert set(curve["threshold"]) == {0.8} and set(curve["specificity"]) == {0.9}
    found = {(row.kind, row.size, row.contrast): row for row in curve.itertuples()}
    assert found["spot", 2.0, 0.1].sensitivity == 1 and len(curve) == 2 * 3 + 1
    assert found["spot", 3.0, 0.2].scans == 1
    last = curve.iloc[-1]
    assert (last["kind"], last["size"], last["sensitivity"], last["scans"]) == ("ventricles", 2.0, 0.5, 2)
    strict = sensitivity_curve(scans(normals([*np.arange(9) / 10, 0.92]) + spots), 0.95, Resampling(50))
    assert set(strict["threshold"]) == {0.92} and strict["sensitivity"].tolist() == [0.5, 0, 1, 0.5, 0, 1]
    ties = sensitivity_curve(scans(normals([0.5] * 10) + [("F0", "spot", 2.0, 0.1, np.nan, 0.5)]), 0.9, Resampling(50))
    assert ties["specificity"].item() == 1 and ties["sensitivity"].item() == 0


def test_intervals_hold_the_truth_and_follow_families() -> None:
    normal = normals(np.linspace(0, 0.5, 40))
    # the copies of an infant agree, or half of them are found in every infant
    found = {"agree": lambda family, copy: family % 2, "differ": lambda family, copy: copy % 2}
    rows = {}
    for name, hit in found.items():
        painted = [
            (f"F{family}", "spot", 2.0, 0.2, np.nan, 0.9 if hit(family, copy) else 0.1)
            for family in range(40)
            for copy in range(10)
        ]
        rows[name] = sensitivity_curve(scans(normal + painted), 0.9, Resampling(2000)).iloc[0]
    assert rows["agree"]["sensitivity"] == rows["differ"]["sensitivity"] == 0.5
    assert rows["agree"]["high"] - rows["agree"]["low"] == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.15)
    assert rows["differ"]["high"] - rows["differ"]["low"] < 1e-9
    none = [(f"F{family}", "spot", 2.0, 0.2, np.nan, 0.1) for family in range(4)]
    row = sensitivity_curve(scans(normal + none), 0.9, Resampling(200)).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((0, 0.4899), abs=1e-3)  # Wilson's, none of 4


def test_the_most_probable_place_names_an_injury() -> None:
    lesions = pd.DataFrame(
        [
            ("A", "1", "spot", 0.0, 0.0, 0.0, 2.0),
            ("A", "2", "spot", 0.0, 0.0, 0.0, 2.0),
            ("B", "1", "spot", 9.0, 0, 0, 4),
        ]
        + [("B", "2", "ventricles", 0.0, 0.0, 0.0, np.nan)],
        columns=["participant_id", "session_id", "kind", "x_mm", "y_mm", "z_mm", "diameter_mm"],
    )
    places = pd.DataFrame(
        [("A", "1", 3.9, 0.0, 0.0, 0.6), ("A", "1", 30.0, 0.0, 0.0, 0.5), ("A", "2", 4.1, 0.0, 0.0, 0.9)],
        columns=["participant_id", "session_id", "x_mm", "y_mm", "z_mm", "probability"],
    )
    assert nearest_named(lesions, places) == {("A", "1"): 1.0, ("A", "2"): 0.0, ("B", "1"): 0.0}


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("painted")
    source = generate_phantom_cohort(folder / "source", num_subjects=6, voxel_size=5.0, num_workers=1, progress=False)
    settings = Settings(kinds=("spot", "cyst"), diameters=(12.0, 14.0), contrasts=(0.3, 0.4), copies=3)
    done = paint_cohort(source, folder / "painted", settings=settings, num_workers=1, progress=False)
    assert done.painted > 3
    return done.folder


def test_the_command_writes_table_figure_and_warnings(painted, tmp_path, capsys) -> None:
    found = find_scans(painted)
    table = pd.DataFrame(
        {"scan": [scan.image for scan in found], "p_injury": [0.2 + 0.6 * scan.label for scan in found]}
    )
    table = table.assign(p_injury_no_tta=table["p_injury"], status="ok", message="")
    table["warnings"] = ["The voxels are coarse.", *[""] * (len(table) - 1)]
    file, output = tmp_path / "predictions.csv", tmp_path / "sensitivity"
    table.to_csv(file, index=False)
    study = read_external(file, painted / "labels.tsv")
    assert study.painted and study.phantom is None and len(study.table) == len(found)
    findings = SimpleNamespace(study=study, both_classes=True, missing=None, cross_validation={"folds": []})
    assert PAINTED in banners(findings) and "painted" in limits(findings)[0] and "painted" in paper_sentence(findings)
    lesions = pd.read_csv(painted / "lesions.tsv", sep="\t", dtype=str).assign(probability=0.5)
    lesions.to_csv(tmp_path / "places.csv", index=False)
    assert main([str(painted), str(file), "--places", str(tmp_path / "places.csv"), "--output", str(output)]) == 0
    text = (output / "sensitivity.md").read_text()
    assert "never clinical evidence" in text and "unpainted scans are few" in text and "| 1.00 |" in text
    assert f"Scans with warnings: 1 of {len(found)}. Do not rely on these" in text
    assert (output / "figures" / "sensitivity.svg").is_file()
    curve = pd.read_csv(output / "sensitivity.csv")
    assert (curve["sensitivity"] == 1).all() and (curve["named"] == 1).all() and set(curve["kind"]) <= {"spot", "cyst"}
    wrong_places = {
        "has no place in any scan": lesions.assign(participant_id="other"),
        "not a finite number": lesions.assign(x_mm=[*lesions["x_mm"][1:], "nan"]),
    }
    for message, places in wrong_places.items():
        places.to_csv(tmp_path / "places.csv", index=False)
        assert main([str(painted), str(file), "--places", str(tmp_path / "places.csv"), "--output", str(output)]) == 1
        assert message in capsys.readouterr().err
    wrong_predictions = {
        "several probabilities for sub-": pd.concat([table, table.assign(p_injury=0.5)]),
        "has p_injury 1.2 for sub-": table.assign(p_injury=table["p_injury"] + 1),
    }
    for message, predictions in wrong_predictions.items():
        predictions.to_csv(file, index=False)
        assert main([str(painted), str(file), "--output", str(output)]) == 1
        assert message in capsys.readouterr().err
    table.drop(columns="warnings").to_csv(file, index=False)  # as of an earlier version, or of a run
    assert main([str(painted), str(file), "--output", str(output)]) == 0
    assert "with warnings" not in (output / "sensitivity.md").read_text()
    table.iloc[1:].to_csv(file, index=False)
    assert main([str(painted), str(file), "--output", str(output)]) == 1
    assert "has no probability for 1 of the" in capsys.readouterr().err
    assert main([str(painted.parent / "source"), str(file), "--output", str(output)]) == 1
    assert "is not a painted cohort" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(painted), str(file), "--specificity", "1"])
