// Reading a volume, and converting between voxels and millimetres. Voxel indices follow the axes right, anterior,
// superior, for any stored orientation.

import "./niivue.umd.js"; // defines globalThis.niivue

const { NVImage } = globalThis.niivue;

/** Fetch a file that gradio serves and parse it. Throws an Error with one sentence for the user. */
export async function readVolume({ file, affine }, signal) {
  let response;
  try {
    response = await fetch(file.url, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The scan could not be loaded because the connection to the server failed. Choose it again.");
  }
  if (!response.ok) {
    throw new Error("The scan is no longer on the server. Upload it again.");
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  const gzipped = bytes[0] === 0x1f && bytes[1] === 0x8b;
  let image = null;
  try {
    image = await NVImage.loadFromUrl({ url: bytes, name: gzipped ? "volume.nii.gz" : "volume.nii" });
    // take the voxel sizes from the affine too, because the header may disagree with it
    const [x, y, z] = affine;
    for (const axis of [0, 1, 2]) image.hdr.pixDims[axis + 1] = Math.hypot(x[axis], y[axis], z[axis]);
    image.setAffine(affine);
  } catch (error) {
    console.warn("volume not read:", error);
  }
  if (!image?.img || image.img.length < image.dimsRAS[1] * image.dimsRAS[2] * image.dimsRAS[3]) {
    throw new Error("This file could not be read as a NIfTI volume. Export it again, then upload the new file.");
  }
  return image;
}

/** Number of voxels along the right, anterior and superior axes. */
export const shape = (image) => [image.dimsRAS[1], image.dimsRAS[2], image.dimsRAS[3]];

/** Millimetres (R, A, S) of a voxel. */
export function toWorld(image, [x, y, z]) {
  const m = image.matRAS; // row by row
  return [0, 4, 8].map((row) => m[row] * x + m[row + 1] * y + m[row + 2] * z + m[row + 3]);
}

/** Voxel (with fractions) at millimetres (R, A, S). */
export const toVoxel = (image, mm) => Array.from(image.mm2vox(mm, true));

/**
 * Where a box, given by two opposite corners in millimetres, lies on a plane through a voxel.
 *
 * `plane` names the axes across, up and through. Returns the four sides as [x0, y0, x1, y1, beyond], in fractions of the
 * scan's extent; none if the plane misses the box. A side beyond the scan is placed at the edge of the scan.
 */
export function outline(image, corners, voxel, { across, up, through }) {
  const [a, b] = corners.map((corner) => toVoxel(image, corner));
  const size = shape(image);
  const ends = (axis) => [Math.min(a[axis], b[axis]), Math.max(a[axis], b[axis])];
  const [near, far] = ends(through);
  if (voxel[through] < near - 0.5 || voxel[through] > far + 0.5) return [];
  const place = (axis) => ends(axis).map((index) => (index + 0.5) / size[axis]);
  const [x, y] = [place(across), place(up)];
  const beyond = (part) => part < 0 || part > 1;
  const [[left, right], [low, high]] = [x, y].map((parts) => parts.map((part) => Math.min(Math.max(part, 0), 1)));
  return [
    [left, low, left, high, beyond(x[0])],
    [right, low, right, high, beyond(x[1])],
    [left, low, right, low, beyond(y[0])],
    [left, high, right, high, beyond(y[1])],
  ];
}

/** Voxel axes across, up and through each plane. */
export const PLANES = {
  axial: { across: 0, up: 1, through: 2 },
  coronal: { across: 0, up: 2, through: 1 },
  sagittal: { across: 1, up: 2, through: 0 },
};

/** The outline's colour: orange, which colour-blind readers can tell from the blue crosshair (Okabe and Ito). */
export const OUTLINE = [230, 159, 0];

/** How values are stored: the offset and strides of the R, A, S axes, and the scaling of the values. */
export function layout(image) {
  const { scl_slope: slope, scl_inter: inter } = image.hdr;
  return {
    values: image.img,
    start: image.img2RASstart.reduce((sum, offset) => sum + offset, 0),
    step: image.img2RASstep,
    shape: shape(image),
    slope: Number.isFinite(slope) && slope !== 0 ? slope : 1,
    inter: Number.isFinite(inter) ? inter : 0,
  };
}

/** The value at a voxel, interpolated between its neighbours; null outside. */
export function sample({ values, start, step, shape: [nx, ny, nz], slope, inter }, x, y, z) {
  if (!(x >= -0.5 && y >= -0.5 && z >= -0.5 && x <= nx - 0.5 && y <= ny - 0.5 && z <= nz - 0.5)) return null;
  x = Math.min(Math.max(x, 0), nx - 1);
  y = Math.min(Math.max(y, 0), ny - 1);
  z = Math.min(Math.max(z, 0), nz - 1);
  const x0 = Math.floor(x), y0 = Math.floor(y), z0 = Math.floor(z);
  const fx = x - x0, fy = y - y0, fz = z - z0;
  const right = x0 < nx - 1 ? step[0] : 0, front = y0 < ny - 1 ? step[1] : 0, up = z0 < nz - 1 ? step[2] : 0;
  const corner = start + x0 * step[0] + y0 * step[1] + z0 * step[2];
  const row = (at) => values[at] * (1 - fx) + values[at + right] * fx;
  const plane = (at) => row(at) * (1 - fy) + row(at + front) * fy;
  return (plane(corner) * (1 - fz) + plane(corner + up) * fz) * slope + inter;
}

/** A colour map as 256 RGB triples. Both views use the same. */
export const colours = (name) => {
  const rgba = globalThis.niivue.cmapper.colormap(name);
  return Array.from({ length: 256 }, (_, level) => [rgba[4 * level], rgba[4 * level + 1], rgba[4 * level + 2]]);
};
