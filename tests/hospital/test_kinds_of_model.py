"""What the documents say of models that need more words, and of scans that a model refuses."""

import pytest
from pydicom import dcmread

from hospital.documents import write_documents
from hospital.lines import summary
from hospital.service import Service
from hospital.settings import Settings
from hospital.software import describe_software
from hospital.study import screen_study
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from run_folder.provenance import PAINTED
from screening.loading import load_model
from tests.dicomfiles.deliveries import save, slices_of, volume
from tests.hospital.test_documents import items

PLACES = [
    {"probability": 0.9 - 0.1 * rank, "position_mm": [12.3, -4.5, 20.0 + rank], "side": "right"} for rank in range(7)
]


LACKS = "The scan has no T1w or MD: the answer rests on T2w alone."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(slices_of(volume(), study="models"), tmp_path_factory.mktemp("models") / "study")


def test_a_local_stream_and_painted_injuries_are_named(model_folder, folder, tmp_path):
    model, processor = load_model(str(model_folder))
    model.config.provenance = {"cohort": "infants", "train_scans": 9, "painted": True}
    software = describe_software(model, str(model_folder))
    study = screen_study(model, processor, str(folder))
    voices = {"p_global": 0.2, "p_local": 0.91, "p_shares": 0.01}
    said = study.answer | {"streams": ["global", "local", "shares"], "places": PLACES, **voices}
    paths = write_documents(study._replace(answer=said), software, tmp_path / "out")
    report = dcmread(paths[0])
    comments = [item.TextValue for name, item in items(report) if name == "Comment"]
    assert comments[0] == PAINTED and report.SeriesDescription.startswith("PAINTED MODEL, GloResNet report")
    assert any("The map shows the global stream only" in text for text in comments)
    places = [text for text in comments if text.startswith("Place ")]
    assert len(places) == 5
    assert places[0] == "Place 1: probability 0.900, right, x -12.3, y 4.5, z 20.0"  # DICOM: left, posterior, head
    numbers = {
        name: item.MeasuredValueSequence[0].NumericValue for name, item in items(report) if name.endswith("alone")
    }
    assert (
        sorted(map(float, numbers.values())) == [0.01, 0.2, 0.91]
        and "Probability from the local stream alone" in numbers
    )
    parameters = [item.TextValue for name, item in items(report) if name == "Algorithm Parameters"]
    assert {"streams that spoke: global, local, shares", "trained on painted injuries: yes"} <= set(parameters)


def test_a_local_stream_that_is_silent(model_folder, folder, tmp_path):
    model, processor = load_model(str(model_folder))
    study = screen_study(model, processor, str(folder))
    said = study.answer | {"p_injury": 0.0, "p_global": 0.49}
    paths = write_documents(study._replace(answer=said), describe_software(model, str(model_folder)), tmp_path / "out")
    found = items(dcmread(paths[0]))
    comments = " ".join(item.TextValue for name, item in found if name == "Comment")
    assert "Only the global stream gave this answer. It says 0.5 where it has seen nothing" in comments
    alone = [item.MeasuredValueSequence[0].NumericValue for name, item in found if name.endswith("alone")]
    assert list(map(float, alone)) == [0.49]


def test_a_scan_that_the_model_refuses_is_refused_with_the_reason(folder, tmp_path, capsys):
    """The class of the error comes from the code of the model folder."""
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16])
    processor = GloResNetImageProcessor(image_size=32, framing="head")
    export_model(GloResNetForImageClassification(config), processor, tmp_path / "model", "card")
    model, processor = load_model(str(tmp_path / "model"))
    settings = Settings(model="m", spool=tmp_path / "spool", archive="http://127.0.0.1:9/dicom-web", patience=0.0)
    service = Service(settings, model, processor, describe_software(model, str(tmp_path / "model")))
    for path in folder.iterdir():
        one = dcmread(path)
        service.spool.keep(one.StudyInstanceUID, one.SOPInstanceUID, path.read_bytes())
    service.look(*service.spool.deliveries())
    service.close()
    assert " refused: the study shows no complete head that could be framed" in capsys.readouterr().out


def test_a_study_lacks_the_further_modalities_of_a_model_and_the_report_says_so(folder, tmp_path):
    names = ["T2w", "T1w", "MD"]
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], modalities=names)
    processor = GloResNetImageProcessor(image_size=32, modalities=names)
    export_model(GloResNetForImageClassification(config), processor, tmp_path / "model", "card")
    model, processor = load_model(str(tmp_path / "model"))
    study = screen_study(model, processor, str(folder))
    assert study.answer["modalities"] == ["T2w"] and study.heat is not None
    software, said = describe_software(model, str(tmp_path / "model")), {}
    assert LACKS in study.answer["warnings"]  # every study has this sentence: it is no reason not to rely on it
    for name, warnings in {"lacks": [LACKS], "blurred": [LACKS, "It is blurred."]}.items():
        answer = study.answer | {"warnings": warnings}
        (report, *_) = write_documents(study._replace(answer=answer), software, tmp_path / name)
        comments = {item.TextValue for name, item in items(dcmread(report)) if name == "Comment"}
        assert LACKS in comments
        said[name] = summary(answer, 10, "axial", False), comments
    doubts = {"Warning: It is blurred.", "Do not rely on a probability with warnings."}
    assert "warning" not in said["lacks"][0] and not doubts & said["lacks"][1]
    assert "1 warning(s): do not rely on it" in said["blurred"][0] and doubts <= said["blurred"][1]
