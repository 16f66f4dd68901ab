"""Three scanners for phantom hospitals: they differ in how they acquire, not in the infants.

| | a | b | c |
|---|---|---|---|
| voxel edge, mm | 1.25 | 1.6 | 2.0 |
| point spread, relative to a | 1 | 2 | 2.6 |
| signal-to-noise ratio, relative to a | 1 | 0.3 | 0.2 |
| bias field, relative to a | 1 | 6 | 10 |
| echo time, ms | 156 | 110 | 220 |
| field of view (right-left, back-front, up-down), mm | 145, 145, 102.5 | 160, 180, 125 | 190, 190, 140 |

Scanner a acquires as a cohort without scanner does: signal-to-noise ratio 15-40, bias field of 2-5 %. The values of b
and c were chosen to differ visibly; they describe no product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .acquisition import ECHO_TIME_MS, Acquisition
from .grids import FIELD_OF_VIEW_MM, Grid, small_grid


@dataclass(frozen=True)
class Scanner:
    """How a scanner differs from the default acquisition.

    Attributes:
        voxel_size: mm, isotropic.
        blur, snr, bias: factors of `psf_fwhm_mm`, `snr` and `bias` of the drawn conditions.
        echo_time_ms: of the T2-weighted sequence.
        field_of_view_mm: along R, A, S; the head stays in its middle.
    """

    voxel_size: float
    blur: float
    snr: float
    bias: float
    echo_time_ms: float
    field_of_view_mm: tuple[float, float, float]

    def grid(self) -> Grid:
        """The grid of every scan."""
        return small_grid(self.voxel_size, self.field_of_view_mm)

    def applied(self, drawn: Acquisition) -> Acquisition:
        """The imaging conditions of a scan for which these were drawn. Motion and position stay."""
        return replace(
            drawn,
            psf_fwhm_mm=self.blur * drawn.psf_fwhm_mm,
            snr=self.snr * drawn.snr,
            bias=self.bias * drawn.bias,
            echo_time_ms=self.echo_time_ms,
        )


SCANNERS = {
    "a": Scanner(1.25, 1.0, 1.0, 1.0, ECHO_TIME_MS, FIELD_OF_VIEW_MM),
    "b": Scanner(1.6, 2.0, 0.3, 6.0, 110.0, (160.0, 180.0, 125.0)),
    "c": Scanner(2.0, 2.6, 0.2, 10.0, 220.0, (190.0, 190.0, 140.0)),
}


def family_numbers(scanner: str | None) -> np.ndarray:
    """The family numbers to draw from. They start at 50000 to avoid the ids of the real release.

    Cohorts of different scanners share none, so that they can be pooled.
    """
    if scanner is None:
        return np.arange(50000, 100000)
    return np.arange(50000 + list(SCANNERS).index(scanner), 100000, len(SCANNERS))
