"""The viewer in a real browser: what a user sees and can do."""

import contextlib
import io
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

PLANES = ("axial", "coronal", "sagittal")


def show(page, name):
    page.click(f"#{name}")
    page.wait_for_function(
        "name => document.querySelector('.grn-name')?.textContent === name"
        " && document.querySelector('.grn-viewer').dataset.state === 'ready'",
        arg=name,
    )


def choose(page, view):
    page.click(f".grn-views [data-view={view}]")


def pixels(page, margin=10):
    """The stage without its round corners, as (height, width, RGB), once it has stopped changing."""
    before = None
    for _ in range(20):
        page.wait_for_timeout(120)
        picture = page.locator(".grn-stage").screenshot()
        if picture == before:
            break
        before = picture
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)[margin:-margin, margin:-margin]


def middle(mask):
    """The centre of a mask's pixels, as fractions of the width and height."""
    assert mask.sum() > 20, "no pixels of that colour"
    down, across = np.nonzero(mask)
    return across.mean() / mask.shape[1], down.mean() / mask.shape[0]


def location(page):
    return page.locator(".grn-location").inner_text()


def move(page, axis, index):
    page.locator(f"[data-axis='{axis}']").evaluate(
        "(input, index) => { input.value = index; input.dispatchEvent(new Event('input', { bubbles: true })); }", index
    )


@pytest.mark.parametrize("stored", ["lps", "asr"])
def test_right_anterior_and_superior_are_where_radiologists_expect_them(either, stored):
    show(either, stored)
    # move to the mark, 10, 12, 9 mm from the middle of 40 x 48 x 30 voxels of 1, 1, 1.5 mm
    for axis, index in enumerate((29, 35, 20)):
        move(either, axis, index)
    assert location(either).split("·")[0].split() == ["R", "9.5", "A", "11.5", "S", "8.3", "mm"]
    assert "intensity 1000" in location(either)
    for plane in PLANES:
        choose(either, plane)
        across, down = middle(pixels(either).min(-1) > 230)  # white, unlike the labels and the crosshair
        assert 0.2 < across < 0.5 and 0.1 < down < 0.45, plane


def test_the_orientation_labels_agree(page_without_webgl):
    show(page_without_webgl, "plain")
    sides = page_without_webgl.evaluate(
        "Object.fromEntries(Array.from(document.querySelectorAll('.grn-tile'), tile => [tile.dataset.plane,"
        " ['left', 'right', 'top', 'bottom']"
        ".map(side => tile.querySelector(`[data-side=${side}]`).textContent).join('')]))"
    )
    assert sides == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
    assert "the patient's right is on your left" in page_without_webgl.locator(".grn-viewer").inner_text()


def test_the_heat_map_is_drawn_at_its_peak_and_can_be_hidden(either):
    show(either, "heated")
    assert location(either).split("·")[0].split() == ["L", "9.5", "P", "11.5", "I", "8.3", "mm"]  # the peak
    assert "heat 0.9" in location(either) or "heat 1.0" in location(either)
    for plane in PLANES:
        choose(either, plane)
        hot = pixels(either)
        either.uncheck("[data-overlay=shown]")
        plain = pixels(either)
        either.check("[data-overlay=shown]")
        across, down = middle(np.abs(hot - plain).max(-1) > 30)
        assert 0.5 < across < 0.8 and 0.55 < down < 0.9, plane  # left, back, low
    # the map falls to 0.3 at 7.8 mm from the peak and to 0.8 at 3.3 mm; values below the threshold are transparent
    area = (np.abs(hot - plain).max(-1) > 10).sum()
    either.locator("[data-overlay=threshold]").fill("80")
    assert 0.1 < (np.abs(pixels(either) - plain).max(-1) > 10).sum() / area < 0.3  # (3.3 / 7.8)^2 = 0.18
    either.locator("[data-overlay=threshold]").fill("30")


def test_the_frame_is_outlined_where_it_is(either):
    """The head is an ellipsoid of 17, 21 and 19 mm around 0: it gives the scale of the picture."""
    show(either, "framed")
    assert either.locator(".grn-frame").is_visible()
    either.uncheck("[data-overlay=shown]")
    expected = {  # left, right, top, bottom in mm; the scan ends 22.5 mm below the middle
        "axial": ((17, 21), (8.5, -12.5, 16.5, -14.5)),
        "coronal": ((17, 19), (8.5, -12.5, 9.75, -22.5)),
        "sagittal": ((21, 19), (16.5, -14.5, 9.75, -22.5)),
    }
    for plane, (radius, sides) in expected.items():
        choose(either, plane)
        shot = pixels(either, margin=1)
        head = (np.abs(shot - 76) < 12).all(-1)
        line = np.linalg.norm(shot - [230, 159, 0], axis=-1) < 70
        found = []
        for axis in (0, 1):  # across, down
            on_head, on_line = (np.flatnonzero(mask.sum(axis) > least) for mask, least in ((head, 5), (line, 20)))
            scale = 2 * radius[axis] / (on_head[-1] - on_head[0])
            middle_of_head = (on_head[-1] + on_head[0]) / 2
            found += [(middle_of_head - end) * scale for end in (on_line[0], on_line[-1])]
        assert found == pytest.approx(sides, abs=1.5), plane
        # dashed where it goes beyond the scan
        rows = np.flatnonzero(line.sum(1) > 20)
        low, high = (line[row].sum() / np.ptp(np.flatnonzero(line[row])) for row in (rows[-1], rows[0]))
        assert (high > 0.9) and (low > 0.9 if plane == "axial" else 0.3 < low < 0.7), plane
    either.check("[data-overlay=shown]")
    move(either, 2, 28)  # above the frame
    choose(either, "axial")
    assert (np.linalg.norm(pixels(either) - [230, 159, 0], axis=-1) < 70).sum() < 20
    show(either, "plain")
    assert not either.locator(".grn-frame").is_visible()


def test_opacity_and_colours_change_the_picture(either):
    show(either, "heated")
    choose(either, "axial")
    inferno = pixels(either)
    either.select_option("[data-overlay=colormap]", "viridis")
    viridis = pixels(either)
    heat = np.abs(viridis - inferno).max(-1) > 30
    red, green, _ = (viridis - inferno)[heat].mean(0)
    assert heat.sum() > 20 and red < -20 and green > 20
    either.locator("[data-overlay=opacity]").fill("0")
    assert np.ptp(pixels(either)[heat], axis=-1).mean() < 5  # grey
    either.locator("[data-overlay=opacity]").fill("50")
    either.select_option("[data-overlay=colormap]", "inferno")


def test_the_peak_button_goes_back_to_the_peak(either):
    show(either, "heated")
    peak = location(either)
    move(either, 2, 3)
    assert location(either) != peak
    either.click(".grn-peak")
    assert location(either) == peak


def test_the_next_scan_does_not_keep_the_heat_map_of_the_previous_one(either):
    choose(either, "axial")
    show(either, "plain")
    plain = pixels(either)
    show(either, "heated")
    assert np.abs(pixels(either) - plain).max() > 30
    show(either, "plain")
    assert np.abs(pixels(either) - plain).max() < 5
    assert not either.is_visible(".grn-peak") and not either.is_visible(".grn-overlay")


def test_the_window_can_be_set_and_reset(either):
    show(either, "plain")
    choose(either, "axial")
    normal = pixels(either)
    either.locator("[data-window=high]").fill("300")
    grey = (np.ptp(normal, axis=-1) < 5) & (normal.max(-1) > 60) & (normal.max(-1) < 90)  # 300 of 1000
    assert pixels(either)[grey].min(-1).mean() > 230
    either.click(".grn-reset")
    assert np.abs(pixels(either) - normal).max() < 5


def test_each_view_has_its_button(page):
    show(page, "heated")
    seen = []
    for view in ("multi", *PLANES, "render"):
        choose(page, view)
        assert page.get_attribute(f".grn-views [data-view={view}]", "aria-pressed") == "true"
        assert page.locator(".grn-views [aria-pressed=true]").count() == 1
        seen.append(pixels(page))
        assert (seen[-1].max(-1) > 60).mean() > 0.01
    assert all(np.abs(one - other).max() > 60 for one, other in zip(seen, seen[1:], strict=False))


def test_without_webgl_the_page_says_why_and_offers_no_3d(page_without_webgl):
    assert page_without_webgl.evaluate("document.createElement('canvas').getContext('webgl2')") is None
    show(page_without_webgl, "heated")
    assert "does not support WebGL2, so only flat slices are shown" in page_without_webgl.inner_text(".grn-why")
    assert page_without_webgl.is_disabled(".grn-views [data-view=render]")
    choose(page_without_webgl, "multi")
    assert page_without_webgl.locator(".grn-tile canvas:visible").count() == 3


def test_slices_keep_their_proportions_without_webgl(page_without_webgl):
    show(page_without_webgl, "plain")
    choose(page_without_webgl, "coronal")
    picture = pixels(page_without_webgl)
    down, across = np.nonzero((np.ptp(picture, axis=-1) < 5) & (picture.max(-1) > 60))
    assert np.ptp(down) / np.ptp(across) == pytest.approx(38 / 34, rel=0.08)  # the ellipsoid, in mm


def test_the_keyboard_is_enough(either):
    show(either, "heated")
    choose(either, "axial")
    either.focus(".grn-stage")
    for key, place in [
        ("ArrowLeft", ["L", "8.5", "P", "11.5", "I", "8.3"]),  # left in the image is the patient's right
        ("ArrowUp", ["L", "8.5", "P", "10.5", "I", "8.3"]),
        ("PageUp", ["L", "8.5", "P", "10.5", "I", "6.8"]),
    ]:
        either.keyboard.press(key)
        assert location(either).split()[:6] == place
    either.keyboard.press("Tab")  # on to the sliders
    assert either.evaluate("document.activeElement.dataset.axis") == "0"
    either.keyboard.press("ArrowRight")
    assert location(either).split()[:2] == ["L", "7.5"]
    nameless = either.evaluate(
        "Array.from(document.querySelectorAll('.grn-viewer :is(button, input, select)'))"
        ".filter(control => !(control.labels?.[0] ?? control).textContent.trim()).length"
    )
    assert nameless == 0


def test_a_bad_file_gives_one_sentence_and_an_empty_viewer(either):
    show(either, "heated")
    for name, sentence in [("damaged", "could not be read as a NIfTI volume"), ("gone", "no longer on the server")]:
        either.click(f"#{name}")
        either.wait_for_selector(f".grn-viewer[data-state=error] .grn-message:has-text('{sentence}')")
        assert location(either) == "" and not either.is_visible(".grn-controls")
    either.click("#none")
    either.wait_for_selector(".grn-viewer[data-state=empty]")
    assert "Choose a scan" in either.inner_text(".grn-message")
    show(either, "plain")


def test_the_latest_scene_wins(either):
    show(either, "plain")
    held = []
    either.route("**/slow.nii.gz", lambda route: held.append(route))
    either.click("#slow")
    either.wait_for_selector(".grn-viewer[data-state=loading]")
    show(either, "heated")
    either.unroute("**/slow.nii.gz")
    assert held
    with contextlib.suppress(Exception):  # the viewer has cancelled this request
        held[0].continue_()
    either.wait_for_timeout(300)
    assert either.inner_text(".grn-name") == "heated" and either.is_visible(".grn-overlay")


def test_the_viewer_fills_its_place_after_it_was_hidden_and_shown_again(either):
    show(either, "heated")
    choose(either, "multi")
    either.click("#hide")
    either.wait_for_selector(".grn-viewer", state="hidden")
    either.click("#unhide")
    either.wait_for_selector(".grn-viewer[data-state=ready]")
    picture = pixels(either)
    assert picture.shape[1] > 600 and (picture.max(-1) > 60).mean() > 0.03


def test_slices_are_shown_if_the_graphics_card_stops(browser, address, opened):
    with opened(browser, address) as page:
        show(page, "heated")
        page.evaluate(
            "document.querySelector('.grn-render canvas').getContext('webgl2').getExtension('WEBGL_lose_context')"
            ".loseContext()"
        )
        page.wait_for_selector(".grn-pictures[data-state=ready]")
        assert "graphics card stopped" in page.inner_text(".grn-why")
        assert (pixels(page).max(-1) > 60).mean() > 0.03


def test_a_large_scan_without_a_graphics_card_is_shown_as_slices(page):
    show(page, "large")
    assert "no graphics card" in page.inner_text(".grn-why") and page.is_disabled(".grn-views [data-view=render]")
    assert (pixels(page).max(-1) > 60).mean() > 0.03
    show(page, "plain")
    assert not page.is_visible(".grn-why") and page.is_enabled(".grn-views [data-view=render]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(browser, address, opened, scheme):
    with opened(browser, address, color_scheme=scheme) as page:
        show(page, "heated")
        for selector in (".grn-convention", ".grn-location", ".grn-name", "legend", ".grn-views [data-view=axial]"):
            text, back = page.locator(f".grn-viewer {selector}").first.evaluate(
                "element => { const text = getComputedStyle(element).color; let back;"
                " for (let at = element; at; at = at.parentElement) { back = getComputedStyle(at).backgroundColor;"
                " if (!/, 0\\)|transparent/.test(back)) break; } return [text, back]; }"
            )
            assert contrast(text, back) > 4.5, (selector, text, back)
        assert (contrast(back, "rgb(0, 0, 0)") < 4) == (scheme == "dark")


def contrast(one, other):
    """The contrast ratio of WCAG 2.2."""
    light = []
    for colour in (one, other):
        part = np.array([float(value) for value in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("chromium", ["browser", "browser_without_webgl"])
def test_a_phone_needs_no_sideways_scrolling(request, address, opened, chromium):
    with opened(request.getfixturevalue(chromium), address, viewport={"width": 375, "height": 700}) as page:
        show(page, "heated")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 375
        for control in page.locator(".grn-viewer :is(button, input, select):visible").all():
            box = control.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 375


def test_the_viewer_contacts_no_other_host_and_stores_nothing(browser, address, opened):
    with opened(browser, address) as page:
        show(page, "heated")
        for view in (*PLANES, "render"):
            choose(page, view)
        pixels(page)
        hosts = {re.sub(r"^(https?://[^/]+).*", r"\1/", url) for url in page.requested if url.startswith("http")}
        assert hosts == {address}
        assert page.evaluate("Object.keys(localStorage)") == []


def test_the_viewer_works_below_a_sub_path(browser, make_page, opened):
    import fastapi
    import gradio as gr
    import uvicorn

    import viewer

    app = gr.mount_gradio_app(fastapi.FastAPI(), make_page(), path="/a/b", head=viewer.head(), css=viewer.css())
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    with opened(browser, f"http://127.0.0.1:{port}/a/b") as page:
        show(page, "heated")
        assert all("/a/b" in url for url in page.requested if "gradio_api/file=" in url)
    server.should_exit = True
    thread.join(10)
