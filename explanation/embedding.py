"""Features of a frozen encoder for the scans of a run: the strongest control to compare a network with.

    python -m explanation.embedding runs/NAME --output features.csv                   MedicalNet's encoder
    python -m explanation.embedding runs/NAME --output random.csv --init random
    python -m evaluation.report runs/NAME --features features.csv random.csv

One row per scan: participant_id, session_id, f000 ... f511. The volumes are those of the run, from the cache. Exit
status: 0 written, 1 the run or the weights cannot be used, 2 wrong call.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m explanation.embedding")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from machine.programs import FAILED, end_if_missing

PROGRAM = "python -m explanation.embedding"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run folder, runs/NAME")
    parser.add_argument("--init", default="medicalnet", help="medicalnet (default), random, or a MedicalNet .pth file")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    end_if_missing(PROGRAM, [parse_arguments().run], FAILED)

from typing import Any

import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from cohort.cache import standardised_volumes
from cohort.scans import CohortError, read_cohort
from evaluation.records import read_recipe
from machine.programs import run_program
from modeling_gloresnet import MEDICALNET, GloResNetConfig, GloResNetModel, MedicalNetImportError
from preprocessing import GloResNetImageProcessor
from run_folder.files import InputError, write_text
from run_folder.layout import RunFolder
from run_folder.tables import csv_text


@torch.inference_mode()
def encode(encoder: GloResNetModel, volumes: torch.utils.data.Dataset, batch_size: int = 4) -> torch.Tensor:
    """Pooled features of standardised volumes.

    Args:
        encoder: it is set to evaluation mode.
        volumes: rows with a tensor `pixel_values` (1, S, S, S).

    Returns:
        (n, hidden_size) float32, on the CPU.
    """
    encoder.eval()
    batches = tqdm(DataLoader(volumes, batch_size=batch_size), desc="encoding", unit="batch")
    return torch.cat([encoder(batch["pixel_values"].to(encoder.device)).pooler_output.cpu() for batch in batches])


def frozen_features(run: Path, init: str = "medicalnet", seed: int = 0) -> pd.DataFrame:
    """Features of a run's scans from an encoder that has seen none of their labels.

    Args:
        run: the run folder. Its `recipe.yaml` and `cohort.csv` are read.
        init: `medicalnet`, `random`, or a MedicalNet `.pth` file.
        seed: seed of random weights.

    Returns:
        One row per scan: participant_id, session_id, and one column per feature.

    Raises:
        InputError: this is not the folder of a run, or its recipe cannot be read.
        MedicalNetImportError, OSError: the weights are unavailable or do not fit.
        CohortError: the scans in `cohort.csv` can no longer be read.
    """
    folder = RunFolder(run)
    if not folder.recipe.is_file():
        raise InputError(
            f"{run} is not the folder of a run: {folder.recipe.name} is missing. Give runs/NAME of a started run."
        )
    recipe = read_recipe(folder, required=("image_size", "brain_mask"))
    names = ("image_size", "brain_mask", "framing", "bias_correction")  # earlier runs lack the last two
    settings = {name: recipe[name] for name in names if name in recipe}
    processor = GloResNetImageProcessor(**settings)
    used = [scan for scan in read_cohort(folder.cohort) if scan.status == "used"]
    volumes, scans = standardised_volumes(used, processor)
    if lost := [scan.reason for scan in scans if scan.status != "used"]:
        raise CohortError(f"{len(lost)} scans of {run} can no longer be read ({lost[0]}): restore the cohort.")
    config = GloResNetConfig(image_size=recipe["image_size"])
    encoder: Any
    if init == "random":
        torch.manual_seed(seed)
        encoder = GloResNetModel(config)
    else:
        encoder = GloResNetModel.from_medicalnet(MEDICALNET if init == "medicalnet" else init, config)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    features = encode(encoder, volumes.with_format("torch", columns=["pixel_values"]))
    table = pd.DataFrame(features.numpy(), columns=[f"f{column:03d}" for column in range(features.shape[1])])
    table.insert(0, "participant_id", [scan.participant_id for scan in scans])
    table.insert(1, "session_id", [scan.session_id for scan in scans])
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)

    def write_features() -> None:
        table = frozen_features(options.run, options.init, options.seed)
        write_text(options.output, csv_text(table))
        print(f"{options.output}: {table.shape[1] - 2} features of {len(table)} scans")

    return run_program(
        PROGRAM,
        write_features,
        failed=(CohortError, InputError, MedicalNetImportError, OSError),
        interrupted="interrupted",
    )


if __name__ == "__main__":
    sys.exit(main())
