"""The card (README.md) of a cohort on the Hub: its contents, how it was labelled, and whether it is synthetic."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import DatasetCardData

_CARD = """---
{metadata}
---

# {name}

{origin}

Each row is one session: a T2-weighted MRI volume of a neonatal brain, its masks, its label and other data about the
infant. GloResNet trains directly on this layout. The files are byte-for-byte copies of those in the original folder.

## Counts

| | sessions |
|---|---|
{counts}

## Columns

| column | content |
|---|---|
| `participant_id`, `session_id` | without `sub-` and `ses-`; an infant may have several sessions |
| `family_id` | the same for siblings; keep families on one side of every split |
| `image` | T2-weighted volume, NIfTI; null if the labels list a session without an image |
| `brain_mask`, `segmentation`{lesions} | NIfTI on the voxel grid of the image, or null |
| `label` | 0 (normal), 1 (injury), or null |
| `radiology_score` | 1 to 5, Q (poor quality), or null |
| `scan_age`, `birth_age` | post-menstrual age at scan and at birth, in weeks |
| `birth_weight` | in kg |
| `sex` | M or F |
| `singleton` | S (singleton) or M (multiple birth) |
| `status` | `used`, or the reason why the session is not used for training |{sites}

## Label

If a session has a radiology score, the label follows from it. Scores 1 (normal for age) and 2 (incidental findings of
unlikely significance) mean `normal`. Scores 3 to 5 (from several punctate or focal lesions to major lesions) mean
`injury`. Sessions with score Q are included, but they are not used for training. If there is no score, the label comes
from the label table that the dataset was made with.

## Use

```python
from datasets import load_dataset

scan = load_dataset("{repo_id}", split="train")[0]["image"]  # a nibabel image
```

    accelerate launch train.py --data_dir {repo_id}

{use}

## Licence

{licence}
"""
_SYNTHETIC = """**Synthetic.** Every image was computed from formulas; no infant was scanned (phantom preset `{preset}`,
seed {seed}). This dataset is not clinical evidence: no result obtained on it says anything about patients."""
_PAINTED = """**Painted injuries.** A program painted the injuries into scans that were labelled normal. No result
obtained on this dataset says how well real injuries are found: it is never clinical evidence.

"""
_HUMAN = """Scans of human infants. The owner of this repository shares them and states that they may do so."""


def render_dataset_card(
    repo_id: str, licence: str, counts: Mapping[str, int], phantom: Mapping[str, object] | None, painted: bool = False,
    sites: bool = False,
) -> str:  # fmt: skip
    """The text of a dataset's README.md. It contains no participant id and no path.

    Args:
        repo_id: ORG/NAME, or the name of a local folder.
        licence: a licence identifier of the Hub, such as `cc-by-4.0`.
        counts: number of sessions by status, from `flow`.
        phantom: the settings of a generated phantom, None for human scans.
        painted: whether a program painted the injuries into normal scans.
        sites: whether the dataset has a column of hospitals.
    """
    found = counts["found"]
    sizes = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    metadata = DatasetCardData(
        license=licence,
        pretty_name=repo_id.split("/")[-1],
        task_categories=["image-classification"],
        tags=["medical", "mri", "3d", "neonatal", "nifti", "gloresnet", *(["synthetic"] if phantom else [])]
        + (["painted-injuries"] if painted else []),
        size_categories=[next((size for limit, size in sizes if found < limit), "100K<n<1M")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        synthetic=phantom is not None,
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        origin=_SYNTHETIC.format(**phantom) if phantom else (_PAINTED if painted else "") + _HUMAN,
        counts="\n".join(f"| {status} | {count} |" for status, count in counts.items()),
        sites="\n| `site` | the hospital, or null |" if sites else "",
        lesions=", `lesion_mask`" if phantom or painted else "",
        use="For running, testing and demonstrating software."
        if phantom
        else "For research use only, not for clinical use. Do not try to identify the infants.",
        licence=f"`{licence}`"
        + ("." if phantom else ", as stated by the person who made this dataset. Add the terms of the source here."),
    )
