"""The most suspicious places that the local stream of a model found in a scan."""

from typing import Any

import numpy as np

from preprocessing.candidates_gloresnet import top_places

MIDDLE_MM = 4.0  # a place this close to the middle of the brain is on neither side
COLUMNS = ["scan", "rank", "probability", "x_mm", "y_mm", "z_mm", "side", "warnings"]


def list_places(probabilities: Any, positions: Any) -> list[dict[str, Any]]:
    """Up to 24 places that are at least 3 mm apart, the most suspicious first.

    Args:
        probabilities: `(N,)` of the candidates of one scan; NaN for padding.
        positions: `(N, 3)` in the scan's world millimetres: right, anterior, superior.

    Returns:
        JSON values of each place: `probability`, `position_mm` (three numbers), and `side`: left or right of the middle
        of the candidates, which lie all over the brain, or middle.
    """
    probabilities, positions = np.asarray(probabilities, np.float64), np.asarray(positions, np.float64)
    known = np.isfinite(probabilities)
    probabilities, positions = probabilities[known], positions[known]
    middle = float(np.median(positions[:, 0])) if len(positions) else 0.0
    return [
        {
            "probability": float(probabilities[index]),
            "position_mm": [round(float(place), 1) for place in positions[index]],
            "side": _side(float(positions[index, 0]) - middle),
        }
        for index in top_places(probabilities, positions)
    ]


def rows_of_places(scan: str, places: list[dict[str, Any]], warnings: str = "") -> list[dict[str, Any]]:
    """The rows of `COLUMNS` for one scan. Each repeats the warnings of the scan."""
    return [
        dict(
            zip(
                COLUMNS,
                [scan, rank, f"{place['probability']:.9g}", *place["position_mm"], place["side"], warnings],
                strict=True,
            )
        )
        for rank, place in enumerate(places, start=1)
    ]


def _side(offset: float) -> str:
    return "middle" if abs(offset) < MIDDLE_MM else "right" if offset > 0 else "left"
