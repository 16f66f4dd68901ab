"""The places that a local stream found suspicious, in the viewer: their list, and the rings that mark them."""

import numpy as np
import pytest

import viewer
from tests.viewer.conftest import PLACES
from tests.viewer.test_viewer import PLANES, choose, contrast, location, move, pixels, show

RADIUS = 3.0  # mm, of a ring in the slice through its place
HEAD = {"axial": (17, 21), "coronal": (17, 19), "sagittal": (21, 19)}  # mm, across and up, around 0
SHOWN = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # axes across and up


def changed(page):
    """The pixels that change if places are not marked."""
    marked = pixels(page)
    page.uncheck("[data-places=marked]")
    plain = pixels(page)
    page.check("[data-places=marked]")
    return np.abs(marked - plain).max(-1) > 40


def test_places_are_listed_in_their_order(either):
    show(either, "placed")
    assert [row.split() for row in either.locator(".grn-listed tbody tr").all_inner_texts()] == [
        ["Go", "to", "1", ">", "0.999", "right", "R", "9.5", "A", "11.5", "S", "8.3"],
        ["Go", "to", "2", "0.051", "left", "L", "9.5", "P", "11.5", "I", "8.3"],
    ]
    assert "This is not a diagnosis" in either.inner_text(".grn-places")
    show(either, "plain")
    assert not either.is_visible(".grn-places")


def test_a_ring_lies_around_each_place_and_nowhere_else(either):
    show(either, "placed")  # at the middle of the head, whose radii give the scale of each picture
    scales = {}
    for plane, radii in HEAD.items():
        choose(either, plane)
        head = (np.abs(pixels(either) - 76) < 12).all(-1)
        ends = [np.flatnonzero(head.sum(axis) > 5)[[0, -1]] for axis in (0, 1)]
        scales[plane] = [(np.ptp(end) / (2 * radius), end.mean()) for end, radius in zip(ends, radii, strict=True)]
    for number, place in enumerate(PLACES, start=1):
        either.get_by_role("button", name=f"Go to {number}").click()
        shown = [float(mm) for mm in location(either).split()[1:6:2]]
        assert shown == pytest.approx(np.abs(place["position_mm"]), abs=0.06)
        for plane in PLANES:
            choose(either, plane)
            ring = changed(either)
            # the rank is at the upper right, so the ring itself ends at the left and at the bottom
            ends = np.flatnonzero(ring.any(0))[0], np.flatnonzero(ring.any(1))[-1]
            found = [(middle - end) / scale for end, (scale, middle) in zip(ends, scales[plane], strict=True)]
            across, up = (place["position_mm"][axis] for axis in SHOWN[plane])
            assert found == pytest.approx([across + RADIUS, up - RADIUS], abs=0.7), (number, plane)
    choose(either, "axial")
    move(either, 2, 22)  # 3 mm above the first
    assert changed(either).sum() == 0
    move(either, 2, 21)
    assert changed(either).sum() > 20
    show(either, "plain")
    plain = pixels(either)
    show(either, "placed")
    move(either, 2, 20)
    show(either, "plain")
    assert np.abs(pixels(either) - plain).max() < 5


def test_a_place_asked_for_in_3d_is_shown_in_the_slices(page):
    show(page, "placed")
    choose(page, "render")
    page.get_by_role("button", name="Go to 2").click()
    assert page.get_attribute(".grn-viewer", "data-view") == "multi"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_is_legible_and_fits_a_phone(browser_without_webgl, address, opened, scheme):
    phone = {"viewport": {"width": 375, "height": 700}, "color_scheme": scheme}
    with opened(browser_without_webgl, address, **phone) as page:
        show(page, "placed")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 375
        assert page.locator(".grn-listed").evaluate("list => list.scrollWidth <= list.clientWidth")
        for selector in ("td:nth-child(2)", "td:last-child", "th"):
            text, back = page.locator(f".grn-listed {selector}").first.evaluate(
                "element => { const text = getComputedStyle(element).color; let back;"
                " for (let at = element; at; at = at.parentElement) { back = getComputedStyle(at).backgroundColor;"
                " if (!/, 0\\)|transparent/.test(back)) break; } return [text, back]; }"
            )
            assert contrast(text, back) > 4.5, (selector, text, back)


def test_a_scene_with_a_place_that_is_nowhere_is_refused(tmp_path, scan_file):
    nowhere = {"probability": 0.5, "position_mm": [1, float("nan"), 3], "side": "left"}
    with pytest.raises(ValueError, match="a place has no finite"):
        viewer.scene(scan_file(tmp_path / "scan.nii.gz"), low=0, high=1, places=[nowhere])
