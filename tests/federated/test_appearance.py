"""How the scans of all sites look, from mean and SD at each."""

import numpy as np

from federated.appearance import merged_appearance, site_appearance
from preprocessing.appearance_gloresnet import DESCRIPTORS, LONGEST_EDGE


def appearance(values, edges):
    return {name: [values.mean(), values.std()] for name in DESCRIPTORS} | {LONGEST_EDGE: edges}


def test_means_and_spreads_of_sites_add_up_to_those_of_all_scans():
    rng = np.random.default_rng(1)
    first, second = rng.normal(2, 1, 40), rng.normal(-1, 3, 7)
    said = [site_appearance(appearance(first, [0.5, 1.2]), 40), site_appearance(appearance(second, [1.0, 2.0]), 7)]
    merged = merged_appearance([*said, None])
    pooled = np.concatenate([first, second])
    np.testing.assert_allclose(merged["dark"], [pooled.mean(), pooled.std()], atol=1e-5)
    assert merged[LONGEST_EDGE] == [0.5, 2.0]


def test_a_site_with_fewer_than_five_scans_says_nothing():
    values = np.arange(4.0)
    assert site_appearance(appearance(values, [1, 1]), 4) is None and merged_appearance([None]) is None


def test_two_folds_do_not_differ_by_a_few_scans():
    values = np.arange(20.0)
    said = [site_appearance(appearance(values, [1, 1]), 20, held_out) is not None for held_out in (0, 1, 4, 5)]
    assert said == [True, False, False, True]
