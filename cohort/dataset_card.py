"""The card (README.md) of a cohort on the Hub: what is in it, how it was labelled, and whether it is synthetic."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import DatasetCardData

_CARD = """---
{metadata}
---

# {name}

{origin}

One row a session, in the layout that GloResNet trains from: the T2-weighted volume of a neonatal brain, what belongs to
it, and its label. The files inside are byte for byte those of the folder the dataset was made from.

## Counts

| | sessions |
|---|---|
{counts}

## Columns

| column | |
|---|---|
| `participant_id`, `session_id` | without `sub-` and `ses-`; an infant may have several sessions |
| `family_id` | what siblings share: they must stay on one side of a split |
| `image` | T2-weighted volume, NIfTI; null when the labels list a session whose image is not here |
| `brain_mask`, `segmentation`{lesions} | NIfTI on the grid of the image, or null |
| `label` | 0 normal, 1 injury, or null |
| `radiology_score` | 1 to 5, or Q for poor quality, or null |
| `scan_age`, `birth_age` | post-menstrual age at scan and at birth, weeks |
| `birth_weight` | kg |
| `sex`, `singleton` | M or F; S (single) or M (of a multiple birth) |
| `status` | used, or why not for training |

## Label

Where a radiology score stands, it makes the label: 1 normal for age and 2 incidental findings of unlikely significance
are `normal`; 3 to 5, from several punctate or focal lesions to major ones, are `injury`. Sessions scored Q are kept and
not used. Where no score stands, the label is that of the table the dataset was made with.

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
_SYNTHETIC = """**Synthetic.** Every image was computed from formulae, no infant was scanned (phantom preset `{preset}`,
seed {seed}). It is not clinical evidence: no figure obtained on it says anything about patients."""
_HUMAN = """Scans of human infants, shared by whoever owns this repository, who states that they may share them."""


def render_dataset_card(
    repo_id: str, licence: str, counts: Mapping[str, int], phantom: Mapping[str, object] | None
) -> str:
    """README.md of a dataset; it names no participant and no path.

    Args:
        repo_id: ORG/NAME, or the name of a local folder.
        licence: an identifier of the Hub, such as `cc-by-4.0`.
        counts: as `flow` gives them.
        phantom: settings of a generated phantom, None for human scans.
    """
    found = counts["found"]
    sizes = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    metadata = DatasetCardData(
        license=licence,
        pretty_name=repo_id.split("/")[-1],
        task_categories=["image-classification"],
        tags=["medical", "mri", "3d", "neonatal", "nifti", "gloresnet", *(["synthetic"] if phantom else [])],
        size_categories=[next((size for limit, size in sizes if found < limit), "100K<n<1M")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        synthetic=phantom is not None,
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        origin=_SYNTHETIC.format(**phantom) if phantom else _HUMAN,
        counts="\n".join(f"| {status} | {count} |" for status, count in counts.items()),
        lesions=", `lesion_mask`" if phantom else "",
        use="For running, testing and showing software."
        if phantom
        else "For research only: not for clinical use, and nobody may try to find out who was scanned.",
        licence=f"`{licence}`"
        + ("." if phantom else ", as stated by whoever made this dataset; add here the terms of the source."),
    )
