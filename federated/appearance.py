"""How the training scans of the whole federation look, from what each site says of its own."""

from collections.abc import Sequence

from preprocessing.appearance_gloresnet import DESCRIPTORS, LONGEST_EDGE

FEWEST = 5  # scans; a mean over fewer says too much about one infant


def site_appearance(appearance: dict[str, list[float]] | None, scans: int, held_out: int = 0) -> dict | None:
    """What a site says: scans, mean and SD of each descriptor, range of voxel edges. None if it has few scans.

    The means of two folds, or of a fold and the refit, differ by the scans held out. So these must not be few either.

    Args:
        appearance: `{name: [mean, SD]}`, as `screening.out_of_distribution.training_appearance` returns it.
        scans: its number of training scans.
        held_out: its number of held-out scans.
    """
    if appearance is None or scans < FEWEST or 0 < held_out < FEWEST:
        return None
    return {"scans": scans, **appearance}


def merged_appearance(sites: Sequence[dict | None]) -> dict[str, list[float]] | None:
    """Mean and SD of each descriptor over the scans of all sites that say something; None if no site does.

    The variance is that of the pooled scans: sum n_i (s_i^2 + m_i^2) / N - m^2.
    """
    known = [site for site in sites if site is not None]
    if not known:
        return None
    total = sum(site["scans"] for site in known)
    merged: dict[str, list[float]] = {}
    for name in DESCRIPTORS:
        mean = sum(site["scans"] * site[name][0] for site in known) / total
        square = sum(site["scans"] * (site[name][1] ** 2 + site[name][0] ** 2) for site in known) / total
        merged[name] = [round(mean, 5), round(max(square - mean**2, 0.0) ** 0.5, 5)]
    if all(LONGEST_EDGE in site for site in known):
        edges = [site[LONGEST_EDGE] for site in known]
        merged[LONGEST_EDGE] = [min(low for low, _ in edges), max(high for _, high in edges)]
    return merged
