"""Damaged files: each is refused in one sentence, read like the sound file, or carries a warning.

A mutant can also be *another legal file*: nothing in it contradicts anything. These are counted apart, and are only

- changes of geometry that have no second witness in the file, and that leave the intensities as they were: the sform
  without a qform (pixdim has to agree with its voxel size, or there is a warning; the qform with code 0, if it is
  filled, with left and right), the qform and pixdim without an sform, and the voxel size, direction cosines (of length
  1 and perpendicular) and centre of MGH;
- the type of voxels, if it has the same width and its values look like an image or noise either way;
- voxels in a file without a checksum, if the geometry is as it was.

They have to be read as nibabel reads them. `FUZZ_MUTANTS=3000 FUZZ_SEED=1` in the environment runs more, and others.
"""

import gzip
import logging
import os
import struct
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import header_dtype

from preprocessing import Volume, VolumeError, map_volume, read_volume

MUTANTS, SEED = int(os.environ.get("FUZZ_MUTANTS", 400)), int(os.environ.get("FUZZ_SEED", 18))
SLOW = 10.0  # seconds
SHAPE = (22, 26, 19)
TURNED = nibabel.eulerangles.euler2mat(0.1, -0.15, 0.05)
AFFINE = nibabel.affines.from_matvec(TURNED @ np.diag([-0.8, 0.8, 1.1]), [9, -8, -7])
NIFTI_GEOMETRY = {"sform": {"srow_x", "srow_y", "srow_z"}, "qform": {"quatern_b", "quatern_c", "quatern_d", "pixdim"}}
NIFTI_GEOMETRY["qform"] |= {"qoffset_x", "qoffset_y", "qoffset_z"}
MGH_GEOMETRY = {"delta", "Mdc", "Pxyz_c"}
TYPES = {"datatype", "type"}


class Sound(NamedTuple):
    """A sound file: its name, its decompressed content, and where it has no second witness.

    Attributes:
        name: of the file that is damaged; of a pair, its other file is in `partner`.
        content: decompressed.
        layout: of the header, None for the voxels of a pair.
        start: where the voxels are.
        unwitnessed: fields of the header that nothing else in the file confirms.
        partner: name and content of the other file of a pair.
    """

    name: str
    content: bytes
    layout: np.dtype | None
    start: int
    unwitnessed: set[str]
    partner: tuple[str, bytes] = ("", b"")


def head(dtype, low=40.0, high=900.0) -> np.ndarray:
    """A smooth head with noise, bright in the middle, on a background above 0."""
    random = np.random.default_rng(7)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    distance = np.sqrt(sum(grid**2 for grid in grids))
    volume = low + (high - low) / (1 + np.exp(8 * (distance - 0.8))) + random.normal(0, (high - low) / 60, SHAPE)
    return volume.astype(dtype)


def nifti(kind, dtype, forms, order="<", name="a.nii", slope=(1.0, 0.0), extra=b"", padding=0, **head_kwargs) -> Sound:
    """A NIfTI file with an sform, a qform or both, and a comment as extension if `extra`."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    image = kind(head(np.dtype(dtype).newbyteorder("="), **head_kwargs), None, header)
    image.set_sform(AFFINE, code=int("sform" in forms))
    image.set_qform(AFFINE, code=int("qform" in forms))
    image.header.set_xyzt_units("mm")
    raw = np.ndarray((), kind.header_class.template_dtype.newbyteorder(order), bytearray(image.header.binaryblock))
    start = (352 if raw.itemsize == 348 else 544) + len(extra)
    pair = name.endswith((".img", ".hdr"))
    raw["scl_slope"], raw["scl_inter"] = slope
    raw["vox_offset"] = 0 if pair else start
    raw["magic"] = b"ni1" if pair else raw["magic"]
    content = raw.tobytes() + bytes([bool(extra), 0, 0, 0]) + extra
    voxels = np.asarray(image.dataobj).astype(np.dtype(dtype).newbyteorder(order)).tobytes("F") + bytes(padding)
    other = {"sform", "qform"} - set(forms)
    free = TYPES | (NIFTI_GEOMETRY[forms[0]] if other else set())
    if not pair:
        return Sound(name, content + voxels, raw.dtype, start, free)
    if name.endswith(".hdr"):
        return Sound(name, content[:348], raw.dtype, 348, free, (name[:-3] + "img", voxels))
    return Sound(name, voxels, None, 0, set(), (name[:-3] + "hdr", content[:348]))


def mgh(dtype, name, tags=b"") -> Sound:
    image = nibabel.MGHImage(head(dtype), AFFINE)
    content = image.to_bytes()[:284] + np.asarray(image.dataobj).astype(np.dtype(dtype).newbyteorder(">")).tobytes("F")
    parameters = struct.pack(">5f", 4000, 1.5, 90, 0, 180)
    return Sound(name, content + parameters + tags, header_dtype, 284, TYPES | MGH_GEOMETRY)


def sound_files() -> list[Sound]:
    one, two = nibabel.Nifti1Image, nibabel.Nifti2Image
    both, comment = ("sform", "qform"), struct.pack("<2i", 32, 6) + b"a comment".ljust(24, b"\0")
    command = struct.pack(">iq", 3, 20) + b"mri_convert a b     "
    return [
        nifti(one, np.int16, ("sform",)),
        nifti(one, np.int16, both, order=">", low=-300),
        nifti(one, np.uint8, ("qform",), name="a.nii.gz", slope=(2.5, -10), low=5, high=250),
        nifti(one, np.float32, both, name="b.nii.gz", extra=comment, padding=512),
        nifti(one, np.int32, ("sform",), name="c.nii.gz", extra=comment),
        nifti(two, np.int16, both, name="d.nii.gz", order=">"),
        nifti(two, np.uint16, ("sform",), name="d.nii", low=2000, high=60000),
        nifti(one, np.float64, both, name="e.hdr"),
        nifti(one, np.int16, both, name="f.img"),
        mgh(np.int16, "g.mgh"),
        mgh(np.float32, "h.mgz", command),
        mgh(np.uint8, "i.mgz"),
    ]


# ------------------------------------------------------------------------------------------------------------ mutations


def some_bytes(content: bytes, sound: Sound, random) -> bytes:
    mutant = bytearray(content)
    for _ in range(random.integers(1, 4)):
        mutant[random.integers(min(len(mutant), sound.start or len(mutant)))] = random.integers(256)
    return bytes(mutant)


def one_bit(content: bytes, sound: Sound, random) -> bytes:
    mutant = bytearray(content)
    checked = sound.name.endswith("z")  # a checksum of gzip knows of a changed voxel
    inside = sound.start if sound.start and (checked or random.random() < 0.8) else len(mutant)
    mutant[random.integers(inside)] ^= 1 << random.integers(8)
    return bytes(mutant)


def truncation(content: bytes, sound: Sound, random) -> bytes:
    return content[: random.integers(len(content))]


def insertion(content: bytes, sound: Sound, random) -> bytes:
    inside = sound.start if sound.start and sound.name.endswith("z") else len(content)  # as in one_bit
    place, count = random.integers(inside + 1), random.integers(1, 65)
    added = [random.bytes(count), bytes(count), content[place : place + count]][random.integers(3)]
    return content[:place] + added + content[place:]


def field(content: bytes, sound: Sound, random) -> bytes:
    """An extreme or a slightly wrong value in one field of the header, or in one element of it."""
    if sound.layout is None:
        return some_bytes(content, sound, random)
    raw = np.ndarray((), sound.layout, bytearray(content[: sound.layout.itemsize]))
    name = random.choice(sound.layout.names)
    place = raw[name] if raw[name].shape else raw.reshape(1)[name]
    kind, index = place.dtype.kind, tuple(random.integers(n) for n in place.shape)
    if kind == "S":
        place[index] = random.bytes(place.dtype.itemsize)
    elif kind == "f":
        now, new = float(place[index]), [0, 1, -1, np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-38, 1e-6, 1e6, 37.5]
        with np.errstate(all="ignore"):
            place[index] = random.choice([*new, -now, 2 * now, now / 2, 1.1 * now, now + 1, now + 0.01])
    else:
        now, limits = int(place[index]), np.iinfo(place.dtype)
        new = [0, 1, -1, 2, 3, 4, 7, 8, 16, 64, 256, 512, 1000, limits.min, limits.max, -now, now * 2, now // 2]
        new += [now + 1, now - 1, int(place[index].byteswap())]
        place[index] = int(np.clip(int(random.choice(np.array(new, dtype=object))), limits.min, limits.max))
    return raw.tobytes() + content[raw.itemsize :]


def other_order(content: bytes, sound: Sound, random) -> bytes:
    """The header in the other byte order, and the voxels as they were."""
    if sound.layout is None:
        return some_bytes(content, sound, random)
    raw = np.ndarray((), sound.layout, bytearray(content[: sound.layout.itemsize]))
    return raw.byteswap().tobytes() + content[raw.itemsize :]


def tail(content: bytes, sound: Sound, random) -> bytes:
    count = random.integers(1, 2000)
    return content + (bytes(count) if random.random() < 0.5 else random.bytes(count))


INSIDE = [
    some_bytes,
    some_bytes,
    one_bit,
    one_bit,
    truncation,
    insertion,
    field,
    field,
    field,
    field,
    other_order,
    tail,
]


def damaged_gzip(content: bytes, random) -> bytes:
    packed = bytearray(gzip.compress(content, compresslevel=int(random.integers(0, 7)), mtime=0))
    damage = random.integers(8)
    if damage == 0:
        packed[random.integers(len(packed))] = random.integers(256)
    elif damage == 1:
        packed[random.integers(10)] ^= 1 << random.integers(8)
    elif damage == 2:
        packed[-1 - random.integers(8)] ^= 1 << random.integers(8)  # checksum and length
    elif damage == 3:
        return bytes(packed[: random.integers(len(packed))])
    elif damage == 4:
        packed += random.bytes(random.integers(1, 200))
    elif damage == 5:
        packed += bytes(random.integers(1, 200))
    elif damage == 6:
        packed += gzip.compress(random.bytes(random.integers(0, 3000)))
    else:
        place = random.integers(len(content))
        return gzip.compress(content[:place], mtime=0) + gzip.compress(content[place:], mtime=0)
    return bytes(packed)


def mutant_of(sound: Sound, random) -> tuple[str, bytes, bytes]:
    """What was done, the decompressed content if it is known, and the file."""
    packed = sound.name.endswith("z")
    if packed and random.random() < 0.25:
        return "gzip", sound.content, damaged_gzip(sound.content, random)
    mutation = INSIDE[random.integers(len(INSIDE))]
    content = mutation(sound.content, sound, random)
    return mutation.__name__, content, gzip.compress(content, 1, mtime=0) if packed else content


# ------------------------------------------------------------------------------------------------------------- judging


def shifted(volume: Volume, sound: Volume) -> bool:
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]).T * [[n - 1] for n in (*sound.data.shape, 2)]
    return bool(np.abs(np.linalg.inv(sound.affine) @ volume.affine @ corners - corners).max() > 0.1)


def z_scores(data: np.ndarray) -> np.ndarray:
    data = data.astype(np.float64)
    return (data - data.mean()) / data.std()


def same_intensities(volume: Volume, sound: Volume) -> bool:
    """Up to a positive scale, an offset, and the order of the axes, which is a matter of geometry."""
    found, expected = (np.sort(z_scores(one.data), axis=None) for one in (volume, sound))
    return found.shape == expected.shape and np.allclose(found, expected, atol=1e-3)


def same(volume: Volume, sound: Volume) -> bool:
    return (
        volume.data.shape == sound.data.shape
        and np.allclose(z_scores(volume.data), z_scores(sound.data), atol=1e-3)
        and not shifted(volume, sound)
    )


def changed_fields(sound: Sound, content: bytes) -> set[str] | None:
    """Names of the header fields that differ, `"voxels"` among them; None if the lengths differ."""
    if len(content) != len(sound.content):
        return None
    different = np.flatnonzero(np.frombuffer(content, np.uint8) != np.frombuffer(sound.content, np.uint8))
    names = {"voxels" for place in different if place >= sound.start}
    for name, (kind, offset, *_) in (sound.layout.fields if sound.layout is not None else {}).items():
        if ((different >= offset) & (different < offset + kind.itemsize)).any():
            names.add(name)
    return names


def another_legal_file(sound: Sound, content: bytes, path: Path, volume: Volume, expected: Volume) -> bool:
    """See the head of this file."""
    fields = changed_fields(sound, content)
    if fields is None:
        return False
    free = fields & (sound.unwitnessed | ({"voxels"} if not sound.name.endswith("z") else set()))
    if not free:
        return False
    if not free & (TYPES | {"voxels"}) and not same_intensities(volume, expected):
        return False
    geometry = NIFTI_GEOMETRY["sform"] | NIFTI_GEOMETRY["qform"] | MGH_GEOMETRY
    if not free & geometry and (volume.data.shape != expected.data.shape or shifted(volume, expected)):
        return False
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
    except Exception:
        return False
    return np.allclose(image.get_fdata().squeeze(), volume.data) and np.allclose(image.affine, volume.affine, atol=1e-3)


def judge(sound: Sound, content: bytes, path: Path, expected: Volume) -> tuple[str, str]:
    """What happened to a mutant, and the message or what was read."""
    before = time.perf_counter()
    try:
        volume = read_volume(path)
        cube = map_volume(volume, 16)
    except VolumeError as error:
        volume, message = None, str(error)
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    if time.perf_counter() - before > SLOW:
        return "slow", f"{time.perf_counter() - before:.0f} s"
    if volume is None:
        fair = message.endswith(".") and "\n" not in message and str(path.with_suffix("")) in message
        return ("refused" if fair else "unfair"), message
    if not (abs(cube.mean()) < 1e-3 and abs(cube.std() - 1) < 1e-3):
        return "not standardised", f"mean {cube.mean()}, SD {cube.std()}"
    if same(volume, expected):
        return "same", ""
    if volume.warnings:
        return "warned", " ".join(volume.warnings)
    if another_legal_file(sound, content, path, volume, expected):
        return "another legal file", ""
    return "read otherwise", f"{volume.data.shape} {volume.data.dtype} {volume.stored_orientation}"


def fuzz(folder: Path, mutants: int, seed: int) -> tuple[Counter, list[str]]:
    """How often each outcome came, and one line for each that must not come."""
    random, counts, faults = np.random.default_rng(seed), Counter(), []
    files = []
    for number, sound in enumerate(sound_files()):
        place = folder / str(number)
        place.mkdir()
        for name, content in ((sound.name, sound.content), sound.partner):
            if name:
                (place / name).write_bytes(gzip.compress(content) if name.endswith("z") else content)
        expected = read_volume(place / sound.name)
        assert expected.warnings == (), expected.warnings
        files.append((sound, place / sound.name, expected))
    for trial in range(mutants):
        sound, path, expected = files[trial % len(files)]
        mutation, content, stored = mutant_of(sound, random)
        path.write_bytes(stored)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, detail = judge(sound, content, path, expected)
        counts[outcome] += 1
        if outcome not in ("refused", "same", "warned", "another legal file"):
            fields = sorted(changed_fields(sound, content) or {"length"}) if mutation != "gzip" else ""
            faults.append(f"{outcome}: mutant {trial} of {sound.name}, {mutation} {fields}: {detail}")
    return counts, faults


def test_no_damage_is_read_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("nibabel.global"), "disabled", True)
    counts, faults = fuzz(tmp_path, MUTANTS, SEED)
    print(f"{MUTANTS} mutants, seed {SEED}: " + ", ".join(f"{count} {what}" for what, count in counts.most_common()))
    assert not faults, "\n".join(faults)
    assert counts["refused"] > MUTANTS / 3 and counts["same"] > MUTANTS / 8
