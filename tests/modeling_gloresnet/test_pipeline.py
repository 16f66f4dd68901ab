"""The pipeline: one answer per scan for every form of input, one mask per scan, and warnings."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification, VolumeClassificationPipeline
from preprocessing import GloResNetImageProcessor
from preprocessing.appearance_gloresnet import describe, unusual
from tests.brains import brain_with_spot

SIZE = 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 8], image_size=SIZE, head_init_std=5.0)
    return GloResNetForImageClassification(config).eval()


@pytest.fixture(scope="module")
def scans():
    rng = np.random.default_rng(0)
    return [rng.normal(100, 20, (18, 20, 19)).astype(np.float32) * (1 + np.arange(19) * k) for k in range(3)]


@pytest.fixture(scope="module")
def masks(scans):
    masks = [np.zeros(scan.shape, np.uint8) for scan in scans]
    for number, mask in enumerate(masks):
        mask[3:-3, 3 : -3 - number, 3 : -3 - 2 * number] = 1
    return masks


@pytest.fixture
def pipe(model):
    return VolumeClassificationPipeline(model=model, image_processor=GloResNetImageProcessor(image_size=SIZE))


@pytest.fixture
def masked_pipe(model):
    processor = GloResNetImageProcessor(image_size=SIZE, brain_mask="required")
    return VolumeClassificationPipeline(model=model, image_processor=processor)


def expected(pipe, scans, masks=None):
    """The probability of injury of each scan, from processor and model, one by one."""
    pixel_values = [
        pipe.image_processor(scan, return_tensors="pt", **({} if masks is None else {"mask": masks[n]})).pixel_values
        for n, scan in enumerate(scans)
    ]
    answers = [pipe.model.predict_proba(volume)[0, 1].item() for volume in pixel_values]
    assert np.ptp(answers) > 0.01  # the scans differ, so a wrong order or a repeated answer would show
    return pytest.approx(answers, abs=1e-6)


def injury(answers):
    answers = list(answers)
    for rows in answers:
        assert [set(row) for row in rows] == [{"label", "score"}] * 2 and rows[0]["score"] >= rows[1]["score"]
    return [{row["label"]: row["score"] for row in rows}["injury"] for rows in answers]


FORMS = {
    "list": list,
    "tuple": tuple,
    "array batch": lambda scans: np.stack(scans)[:, None],
    "tensor batch": lambda scans: torch.from_numpy(np.stack(scans))[:, None],
    "list of (1, R, A, S)": lambda scans: [scan[None] for scan in scans],
    "list of batches of one": lambda scans: [torch.from_numpy(scan)[None, None] for scan in scans],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [{}, {"batch_size": 2}])
def test_every_form_of_several_scans_gives_one_answer_per_scan(pipe, scans, form, settings):
    assert injury(pipe(FORMS[form](scans), **settings)) == expected(pipe, scans)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_several_scans_takes_one_mask_per_scan(masked_pipe, scans, masks, form):
    wanted = expected(masked_pipe, scans, masks)
    assert injury(masked_pipe(FORMS[form](scans), mask=FORMS[form](masks))) == wanted
    assert injury(masked_pipe(FORMS[form](scans), mask=masks, batch_size=2)) == wanted


def test_generators_and_data_sets_are_answered_in_order(pipe, scans):
    class Scans(torch.utils.data.Dataset):
        def __len__(self):
            return len(scans)

        def __getitem__(self, index):
            return scans[index]

    assert injury(pipe(scan for scan in scans)) == expected(pipe, scans)
    assert injury(pipe(Scans())) == expected(pipe, scans)


def test_one_scan_gives_one_answer_and_a_batch_of_one_a_list(pipe, masked_pipe, scans, masks, tmp_path):
    image = nib.Nifti1Image(scans[1], np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    wanted = expected(pipe, scans)
    for scan in (scans[1], torch.from_numpy(scans[1]), scans[1][None], image, tmp_path / "scan.nii.gz"):
        assert injury([pipe(scan)])[0] == wanted.expected[1]
    assert injury(pipe(scans[1][None, None])) == [wanted.expected[1]]
    assert injury([masked_pipe(scans[1], mask=masks[1])])[0] == expected(masked_pipe, scans, masks).expected[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scans: [scans[:2], scans[2:]], "scan 0 holds 2 scans: give a list with one scan per item"),
        (lambda scans: [scans[0], np.stack(scans)[:, None]], "scan 1 holds 3 scans"),
        (lambda scans: (np.stack(scans)[:, None] for _ in range(2)), "the scan holds 3 scans"),
        (lambda scans: [], "The list of scans is empty"),
        (lambda scans: (), "The list of scans is empty"),
    ],
)
def test_inputs_with_several_scans_in_one_item_are_refused(pipe, scans, change, message):
    with pytest.raises(ValueError, match=message):
        list(pipe(change(scans)))


def test_masks_that_do_not_fit_the_scans_are_refused(masked_pipe, scans, masks):
    with pytest.raises(ValueError, match=r"3 scan\(s\) came with 2 mask\(s\): give one mask per scan"):
        masked_pipe(scans, mask=masks[:2])
    with pytest.raises(ValueError, match=r"3 scan\(s\) came with 1 mask"):
        masked_pipe(scans, mask=masks[0])
    with pytest.raises(ValueError, match=r"1 scan\(s\) came with 3 mask"):
        masked_pipe(scans[0], mask=masks)
    with pytest.raises(ValueError, match="Masks need a list of scans"):
        masked_pipe((scan for scan in scans), mask=masks)
    with pytest.raises(ValueError, match='brain_mask="required"'):
        masked_pipe(scans)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 2}, {"num_workers": 2}])
def test_unusual_scans_are_named_in_warnings_with_the_sentences_of_predict(pipe, scans, settings, monkeypatch):
    cubes = [pipe.image_processor(scan, return_tensors="np").pixel_values[0, 0] for scan in scans]
    record = {name: [value, 0.0] for name, value in describe(cubes[0]).items()}
    monkeypatch.setattr(pipe.model.config, "training_appearance", record)
    assert not unusual(cubes[0], record) and unusual(cubes[1], record)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = pipe(scans, **settings)
    assert injury(answers) == expected(pipe, scans)  # the output holds labels and scores only
    found = [str(each.message) for each in caught if each.category is UserWarning and "training scans" in str(each)]
    wanted = [f"scan {n}: {sentence}" for n in range(3) for sentence in unusual(cubes[n], record)]
    assert found == wanted


def test_thick_slices_give_a_warning(pipe, scans, tmp_path, monkeypatch):
    thick = nib.Nifti1Image(scans[0], np.diag([1.0, 1.0, 4.0, 1.0]))
    nib.save(thick, tmp_path / "scan.nii.gz")
    record = {name: [value, 0.0] for name, value in describe(pipe.image_processor(thick)["pixel_values"][0][0]).items()}
    monkeypatch.setattr(pipe.model.config, "training_appearance", record | {"longest_edge_mm": [1.0, 2.0]})
    for scan in (str(tmp_path / "scan.nii.gz"), thick):
        with pytest.warns(
            UserWarning, match=r"slice spacing, is 4\.00 mm; in the training scans it was 1\.00 to 2\.00 mm"
        ):
            pipe(scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe(nib.Nifti1Image(scans[0], np.eye(4)))
        pipe(scans[0])  # of unknown size


def test_a_model_without_a_record_of_its_training_says_so(pipe, scans):
    with pytest.warns(UserWarning, match="the scan: The model has no record of its training scans"):
        pipe(scans[0])


def test_a_processor_of_another_image_size_is_refused(model):
    with pytest.raises(ValueError, match="with 32 voxels per edge, but the model expects 16"):
        VolumeClassificationPipeline(model=model, image_processor=GloResNetImageProcessor(image_size=32))


def test_both_streams_answer_in_batches_of_scans_with_different_numbers_of_candidates():
    torch.manual_seed(0)
    config = GloResNetConfig(
        stem_channels=4, widths=[4, 8, 8, 8], image_size=SIZE, head_init_std=5.0, local_stream=True
    )
    model = GloResNetForImageClassification(config).eval()
    processor = GloResNetImageProcessor(image_size=SIZE, local_stream=True)
    brains = [brain_with_spot(), brain_with_spot(radius=26), brain_with_spot(seed=6)]
    answers = injury(VolumeClassificationPipeline(model=model, image_processor=processor)(brains, batch_size=3))
    alone = [model.predict_proba(**processor(brain, return_tensors="pt"))[0, 1].item() for brain in brains]
    assert answers == pytest.approx(alone, abs=1e-6)
    with pytest.raises(ValueError, match="local_stream"):
        VolumeClassificationPipeline(model=model, image_processor=GloResNetImageProcessor(image_size=SIZE))


def test_images_of_several_modalities_come_as_dictionaries(scans):
    names = ["T2w", "T1w", "MD"]
    config = GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 8], image_size=SIZE, head_init_std=5.0, modalities=names)
    network = GloResNetForImageClassification(config).eval()
    torch.nn.init.normal_(network.presence.weight)
    processor = GloResNetImageProcessor(image_size=SIZE, modalities=names)
    pipe = VolumeClassificationPipeline(model=network, image_processor=processor)
    given = [{"T2w": scans[0], "MD": scans[0] ** 2}, {"T2w": scans[1], "T1w": scans[1] + 1, "MD": scans[1]}, scans[2]]
    wanted = [network.predict_proba(**processor(scan, return_tensors="pt"))[0, 1].item() for scan in given]
    assert np.ptp(wanted) > 1e-3
    for settings in ({}, {"batch_size": 3}):
        assert injury(pipe(given, **settings)) == pytest.approx(wanted, abs=1e-6)
    assert injury([pipe(given[0])]) == pytest.approx(wanted[:1], abs=1e-6)
    with pytest.warns(UserWarning, match="The scan has no T1w: the answer rests on T2w and MD alone"):
        pipe(given[0])
    with pytest.raises(ValueError, match="The processor prepares T2w, but the model expects T2w, T1w, MD"):
        VolumeClassificationPipeline(model=network, image_processor=GloResNetImageProcessor(image_size=SIZE))
