"""The served page, in a real browser and through its programming interface."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from gradio_client import Client, handle_file

import app
from publishing import convert
from tests.programs import PROJECT, run_program
from tests.viewer.served import ROOT, expected, further_model, start, stop, tiny_models

MINUTE = 60_000  # milliseconds; only a heavily loaded machine takes this long


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def served(base):
    # a hospital's proxy, which the page must not ask for its own address
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "HTTP_PROXY")} | {"no_proxy": "", "NO_PROXY": ""}
    served = start("--model", base / "model", cwd=base, temp=base / "temp", **proxy)
    yield served
    assert "ComponentProcessingError" not in stop(served)


@pytest.fixture
def page(served, browser):
    with open_page(browser, served.url) as page:
        yield page


class open_page:
    """A separate browser page that records its requests."""

    def __init__(self, browser, url, **context):
        self.context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **context})
        self.url = url

    def __enter__(self):
        page = self.context.new_page()
        page.set_default_timeout(MINUTE)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(self.url)
        page.wait_for_selector(".masthead")
        return page

    def __exit__(self, *_):
        self.context.close()


def drop(page, *files, into="#upload"):
    page.set_input_files(f"{into} input[type=file]", [str(file) for file in files])


def files_in(folder):
    # os.walk passes over folders that the page deletes meanwhile
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name != ".lock")
    return [path for path in files if path.is_file()]


def wait_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert condition()


# -------------------------------------------------------------------------------------------------- in the browser


def test_upload_to_result_viewer_and_downloads(base, page):
    drop(page, base / "scan1.nii.gz")
    headline = page.wait_for_selector("#result .headline").inner_text()
    p_injury = expected(base, base / "scan1.nii.gz")
    assert float(re.search(r"[\d.]+", headline).group()) == pytest.approx(p_injury, abs=6e-4)
    assert ("classified as injury" in headline) == (p_injury >= 0.5)
    assert "TRAINED ON SYNTHETIC PHANTOMS" in page.inner_text(".masthead")
    assert "Not calibrated" in page.inner_text("#result") and "threshold" in page.inner_text("#result .scale")
    page.wait_for_selector("#viewer [data-state=ready]")
    page.get_by_role("button", name="Heat map (NIfTI)").and_(page.locator(":enabled")).wait_for()
    with page.expect_download() as caught:
        page.get_by_role("button", name="Result (JSON)").click()
    answer = json.loads(Path(caught.value.path()).read_text())
    assert caught.value.suggested_filename == "scan1.json"
    assert answer["p_injury"] == pytest.approx(p_injury, abs=1e-6) and answer["warnings"] == []
    with page.expect_download() as caught:
        page.get_by_role("button", name="Heat map (NIfTI)").click()
    copy = base / "map.nii.gz"
    caught.value.save_as(copy)
    heat, scan = nibabel.load(copy), nibabel.load(base / "scan1.nii.gz")
    assert heat.shape == scan.shape and np.allclose(heat.affine, scan.affine)
    assert 0 <= heat.get_fdata().min() and 0.5 < heat.get_fdata().max() <= 1 + 1e-6


def test_bad_scans_among_several_do_not_stop_the_others(base, page):
    drop(page, *[base / f"{name}.nii.gz" for name in ("scan0", "flat", "bold", "cut", "scan1")])
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length == 5")
    page.get_by_role("button", name="All results (CSV)").and_(page.locator(":enabled")).wait_for()
    with page.expect_download() as caught:
        page.get_by_role("button", name="All results (CSV)").click()
    lines = Path(caught.value.path()).read_text().splitlines()
    assert lines[0].startswith("scan,p_injury,predicted_label") and len(lines) == 6
    for line, words in zip(
        lines[1:], ["", "is constant", "4D|5 volumes|frames", "damaged|ended|truncated|cut short", ""], strict=True
    ):
        assert bool(words) == bool(re.search(words or "^$", line)), line
    assert "bold.nii.gz" in page.inner_text("#table")
    # choose another scan with the keyboard
    page.locator("#picker input").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result .problem")
    assert "flat.nii.gz is constant" in page.inner_text("#result")
    assert "flat.nii.gz" in page.inner_text("#table [aria-current]")


def test_a_file_that_is_not_a_scan_gives_one_sentence(base, page):
    (base / "notes.nii").write_text("not a scan")
    drop(page, base / "notes.nii")
    problem = page.wait_for_selector("#result .problem").inner_text()
    assert problem.startswith("No result for this scan. notes.nii is no")
    assert str(base) not in page.inner_text("#result") and page.locator("#viewer [data-state=empty]").count() == 1


def test_an_example_is_generated_screened_and_shown(page):
    page.get_by_role("button", name="Cystic PVL").click()
    page.wait_for_selector("#result .headline")
    assert "synthetic cystic pvl.nii.gz" in page.inner_text("#result")
    page.wait_for_selector("#viewer [data-state=ready]")


def test_the_keyboard_is_enough(base, page):
    def reach(name):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText || ''").strip() == name:
                return
        raise AssertionError(f"{name} cannot be reached by Tab")

    page.get_by_role("button", name="Normal").wait_for()  # the page appears piece by piece
    reach("Normal")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result .headline")
    page.get_by_role("button", name="Heat map (NIfTI)").and_(page.locator(":enabled")).wait_for()
    page.locator("#result summary").focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("Stored grid").is_visible()
    with page.expect_file_chooser():
        page.locator("#upload button").first.focus()
        page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_text_is_legible(base, served, browser, scheme):
    options = {"viewport": {"width": 375, "height": 800}, "color_scheme": scheme}
    with open_page(browser, served.url, **options) as page:
        drop(page, base / "scan0.nii.gz")
        page.wait_for_selector("#result .headline")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        for selector in [".masthead p", "#result .headline .number", "#result .calibration", ".synthetic strong"]:
            assert contrast(page, selector) >= 4.5, selector  # WCAG 2.2 AA


CONTRAST = """selector => {
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector(selector);
  const isClear = colour => /rgba\\(.*, 0\\)|transparent/.test(colour);
  let behind = element;
  while (behind && isClear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const background = behind ? getComputedStyle(behind).backgroundColor : "rgb(255,255,255)";
    const [low, high] = [getComputedStyle(element).color, background].map(luminance).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def contrast(page, selector):
    return page.evaluate(CONTRAST, selector)


def test_no_other_host_is_contacted_and_nothing_stays_in_the_browser_or_on_disk(base, served, browser):
    with open_page(browser, served.url) as page:
        drop(page, base / "scan0.nii.gz")
        page.wait_for_selector("#viewer [data-state=ready]")
        page.get_by_role("button", name="Heat map (NIfTI)").and_(page.locator(":enabled")).wait_for()
        hosts = {url.split("/")[2] for url in page.requested if url.startswith(("http", "ws"))}
        assert hosts == {served.url.split("/")[2]}
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"
        assert any("visitor-" in str(path) for path in files_in(served.temp))
    # the visitor's files are deleted immediately, gradio's copy of the upload a little later
    wait_until(lambda: not any("visitor-" in str(path) for path in files_in(served.temp)))
    wait_until(lambda: not files_in(served.temp))


def test_clear_deletes_the_scans_and_resets_the_page(base, page, served):
    drop(page, base / "scan0.nii.gz")
    page.get_by_role("button", name="Heat map (NIfTI)").and_(page.locator(":enabled")).wait_for()
    page.get_by_role("button", name="Clear", exact=True).click()
    page.wait_for_selector("#result .empty")
    page.wait_for_selector("#viewer [data-state=empty]")


def test_without_webgl_slices_are_shown(base, served, browser_without_webgl):
    with open_page(browser_without_webgl, served.url) as page:
        drop(page, base / "scan1.nii.gz")
        page.wait_for_selector("#viewer [data-state=ready]")
        assert "WebGL2" in page.inner_text("#viewer")


def test_a_model_that_needs_a_mask_asks_for_it(base, browser):
    served = start("--model", base / "masked", cwd=base, temp=base / "temp-masked")
    try:
        with open_page(browser, served.url) as page:
            drop(page, base / "scan1.nii.gz")
            assert "Upload the brain mask as well" in page.wait_for_selector("#result .problem").inner_text()
            drop(page, base / "mask.nii.gz", into="#mask")
            page.wait_for_selector("#result .headline")
        client = Client(served.url, verbose=False)
        answer = client.predict(
            handle_file(base / "scan1.nii.gz"), handle_file(base / "mask.nii.gz"), api_name="/screen"
        )
        assert answer["status"] == "ok" and answer["preprocessing"]["brain_mask"] == "required"
    finally:
        stop(served)


def test_further_images_are_added_before_the_scan(base, browser):
    model, processor = further_model(base)
    served = start("--model", base / "further", cwd=base, temp=base / "temp-further")
    try:
        with open_page(browser, served.url) as page:
            drop(page, base / "scan0.nii.gz", into="#t1w")
            page.wait_for_selector("#t1w :text('scan0')")
            drop(page, base / "scan0.nii.gz")
            found = page.wait_for_selector("#result .headline").inner_text()
            images = dict.fromkeys(("T2w", "T1w"), base / "scan0.nii.gz")
            p_injury = model.predict_proba(**processor(images, return_tensors="pt"))[0, 1].item()
            assert float(re.search(r"[\d.]+", found).group()) == pytest.approx(p_injury, abs=6e-4)
            assert "The scan has no FA: the answer rests on T2w and T1w alone." in page.inner_text("#result .missing")
            page.wait_for_selector("#viewer [data-state=ready]")
            assert page.locator("#t1w :text('scan0')").count() == 0  # it belonged to that scan
            drop(page, base / "scan1.nii.gz")
            page.wait_for_selector("#result :text('scan1')")
            assert "The scan has no T1w or FA" in page.inner_text("#result .missing")
    finally:
        stop(served)


# ------------------------------------------------------------------------------------------ programs and start-up


def test_ten_programs_at_once_each_get_their_own_result(base, served):
    wanted = [expected(base, base / f"scan{number}.nii.gz") for number in (0, 1)]

    def ask(number):
        client = Client(served.url, verbose=False)
        return client.predict(handle_file(base / f"scan{number % 2}.nii.gz"), api_name="/screen")

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    for number, answer in enumerate(answers):
        assert answer["status"] == "ok" and answer["scan"] == f"scan{number % 2}.nii.gz"
        assert answer["p_injury"] == pytest.approx(wanted[number % 2], abs=1e-6)
    json.dumps(answers, allow_nan=False)


def test_a_program_gets_one_sentence_for_a_bad_scan(base, served):
    client = Client(served.url, verbose=False)
    answer = client.predict(handle_file(base / "flat.nii.gz"), api_name="/screen")
    assert answer["status"] == "error" and answer["message"].startswith("flat.nii.gz is constant")
    assert [name for name in client.view_api(return_format="dict")["named_endpoints"]] == ["/screen"]


@pytest.mark.parametrize("kind", ["none", "untrained"])
def test_without_a_trained_model_the_page_says_how_to_train_one(base, browser, tmp_path, kind):
    environment = {"GLORESNET_MODEL": str(base / "untrained")} if kind == "untrained" else {}
    served = start(cwd=tmp_path, temp=tmp_path / "temp", **environment)
    try:
        with open_page(browser, served.url) as page:
            assert "accelerate launch train.py --fold 4" in page.inner_text("body")
            assert page.locator("#upload").count() == 0
    finally:
        stop(served)


def test_a_converted_model_gives_the_same_result_and_the_page_says_that_it_has_no_map(base, browser, tmp_path):
    file = tmp_path / "model.onnx"
    assert convert.main([str(base / "model"), "--format", "onnx", "--output", str(file)]) == 0
    served = start("--model", file, cwd=tmp_path, temp=tmp_path / "temp")
    try:
        scan = base / "scan1.nii.gz"
        answer = Client(served.url, verbose=False).predict(handle_file(scan), api_name="/screen")
        assert answer["p_injury"] == pytest.approx(expected(base, scan), abs=1e-4)
        with open_page(browser, served.url) as page:
            drop(page, scan)
            headline = page.wait_for_selector("#result .headline").inner_text()
            assert float(re.search(r"[\d.]+", headline).group()) == pytest.approx(answer["p_injury"], abs=6e-4)
            assert "Heat maps are not available for converted models" in page.inner_text("body")
    finally:
        stop(served)


def test_passwords_keep_others_out(base, browser, tmp_path):
    (tmp_path / "users").write_text("anna:secret\n")
    served = start("--model", base / "model", "--auth", tmp_path / "users", cwd=tmp_path, temp=tmp_path / "temp")
    try:
        with pytest.raises(Exception, match="(?i)credentials|auth|401"):
            Client(served.url, verbose=False)
        client = Client(served.url, auth=("anna", "secret"), verbose=False)
        assert client.predict(handle_file(base / "scan0.nii.gz"), api_name="/screen")["status"] == "ok"
        stranger = httpx.Client(base_url=served.url)
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/gradio_api/file=/tmp"):
            assert stranger.get(path).status_code == 401, path
        scan = {"files": ("scan0.nii.gz", (base / "scan0.nii.gz").read_bytes())}
        assert stranger.post("/gradio_api/upload", files=scan).status_code == 401
        guess = {"username": "anna", "password": "guess"}
        assert [stranger.post("/login", data=guess).status_code for _ in range(4)] == [400, 400, 400, 429]
        answer = stranger.post("/login", data={**guess, "password": "secret"})
        assert answer.status_code == 429 and answer.json()["detail"] == "Too many failed logins. Try again in 1 second."
        time.sleep(1)
        assert stranger.post("/login", data={**guess, "password": "secret"}).status_code == 200
        assert stranger.post("/gradio_api/upload", files=scan).status_code == 200
    finally:
        stop(served)
    assert not list((tmp_path / "temp").glob("gloresnet-page-*"))  # deleted when the page stopped


def test_wrong_calls_exit_with_2_and_a_sentence(base, tmp_path, capsys):
    for arguments, sentence in [
        (["--auth", "absent"], "absent is not a file"),
        (["--port", "many"], "--port"),
    ]:
        with pytest.raises(SystemExit) as caught:
            app.main(arguments)
        assert caught.value.code == 2 and sentence in capsys.readouterr().err
    (tmp_path / "users").write_text("no colon")
    (tmp_path / "latin").write_bytes("anna:gehe\u00efm".encode("latin-1"))
    for arguments, sentence in [
        (["--model", str(base / "untrained")], "its weights may be random"),
        (["--model", "./absent"], "does not exist"),
        (["--model", str(base / "model"), "--auth", str(tmp_path / "users")], "one user:password per line"),
        (["--model", str(base / "model"), "--auth", str(tmp_path / "latin")], "latin is not text in UTF-8"),
    ]:
        assert app.main(arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("app.py: ") and sentence in errors


def test_the_error_for_a_port_in_use_names_the_port(base, served):
    port = served.url.rpartition(":")[2]
    process = run_program([ROOT / "app.py", "--model", base / "model", "--port", port], base, os.environ, PROJECT)
    assert process.returncode == 1 and f"{port}" in process.stderr and "Traceback" not in process.stderr


def test_the_default_model_is_the_best_fold_of_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert app.newest_model() is None
    for when, name in enumerate(["old/fold-0", "new/fold-1", "new/fold-2"]):
        model = tmp_path / "runs" / name / "model"
        model.mkdir(parents=True)
        (model / "config.json").touch()
        (model.parent / "metrics.json").touch()
        os.utime(model.parent / "metrics.json", (when, when))
    assert app.newest_model() == "runs/new/fold-2/model"
    (tmp_path / "runs/new/cv_metrics.json").write_text('{"best_fold": 1}')
    assert app.newest_model() == "runs/new/fold-1/model"
