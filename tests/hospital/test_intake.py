"""Which series of a study is used if a plane was chosen."""

from dicomfiles.thresholds import MIN_SLICES
from hospital.intake import read_series
from hospital.spool import Delivery
from tests.dicomfiles.deliveries import save, slices_of, turned, volume


def test_short_and_derived_series_in_the_plane_do_not_count(tmp_path):
    images = {
        1: turned(volume(shape=(20, 12, 24)), "coronal"),
        2: volume(shape=(20, 24, 10)),
        3: volume(shape=(20, 24, 9)),
        4: volume(shape=(20, 24, MIN_SLICES - 1)),
    }
    files = {}
    for series, image in images.items():
        datasets = slices_of(image, study="planes", series=series)
        for one in datasets:
            one.ImageType = ["DERIVED" if series == 3 else "ORIGINAL", "PRIMARY", "M", "NORM"]
        files[series] = sorted(save(datasets, tmp_path / str(series)).iterdir())

    def chosen(*series):
        paths = {path.stem: path for each in series for path in files[each]}
        return read_series(Delivery("s", paths, "", 0.0, False), "axial").number

    assert chosen(1, 2, 3, 4) == chosen(1, 2) == 2
    assert chosen(1, 3) == 3  # no other one is axial
    assert chosen(1, 4) == 1  # too short to be screened
