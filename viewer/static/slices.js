// The view without WebGL2: three slices on plain canvases. It has the same methods as planes.js.

import { drawRings, rings } from "./places.js";
import { colours, layout, outline, OUTLINE, PLANES, sample, shape, toVoxel, toWorld } from "./volumes.js";

// the axis across runs backwards in all three: the patient's right (axial, coronal) or the nose (sagittal) is on the left
const LABELS = {
  axial: { left: "R", right: "L", top: "A", bottom: "P" },
  coronal: { left: "R", right: "L", top: "S", bottom: "I" },
  sagittal: { left: "A", right: "P", top: "S", bottom: "I" },
};

/** Draw into the tiles of `place`. Calls `moved(voxel)` when the user clicks or drags in a slice. */
export function slicesView(place, { moved }) {
  const tiles = Array.from(place.querySelectorAll(".grn-tile"), (element) => {
    const plane = PLANES[element.dataset.plane];
    for (const [side, letter] of Object.entries(LABELS[element.dataset.plane])) {
      const label = Object.assign(document.createElement("span"), { className: "grn-side", textContent: letter });
      label.dataset.side = side;
      element.append(label);
    }
    return { element, plane, canvas: element.querySelector("canvas"), picture: document.createElement("canvas") };
  });
  const nothing = { scan: null, overlay: null, frame: null, places: [] };
  const state = { ...nothing, voxel: [0, 0, 0], low: 0, high: 1, heat: { shown: false } };
  let table = null;

  let pending = 0;
  const refresh = () => {
    pending ||= requestAnimationFrame(() => {
      pending = 0;
      tiles.forEach(draw);
    });
  };
  const resized = new ResizeObserver(refresh);
  tiles.forEach(({ element }) => resized.observe(element));

  /** The rectangle of the slice in its tile, in device pixels, with the same scale in mm in both directions. */
  function area({ element, plane }) {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(element.clientWidth * ratio), height = Math.round(element.clientHeight * ratio);
    const size = shape(state.scan), spacing = state.scan.pixDimsRAS.slice(1);
    const wide = size[plane.across] * spacing[plane.across], tall = size[plane.up] * spacing[plane.up];
    const scale = Math.min(width / wide, height / tall);
    return {
      width, height, ratio,
      left: (width - wide * scale) / 2, top: (height - tall * scale) / 2, wide: wide * scale, tall: tall * scale,
    };
  }

  function draw(tile) {
    const context = tile.canvas.getContext("2d");
    if (!state.scan || !tile.element.clientWidth) {
      context.clearRect(0, 0, tile.canvas.width, tile.canvas.height);
      return;
    }
    const { plane, picture } = tile;
    const size = shape(state.scan);
    picture.width = size[plane.across];
    picture.height = size[plane.up];
    const { width, height, ratio, left, top, wide, tall } = area(tile);
    tile.canvas.width = width;
    tile.canvas.height = height;
    paint(picture, plane);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left, top, wide, tall);
    const x = left + ((size[plane.across] - 0.5 - state.voxel[plane.across]) / size[plane.across]) * wide;
    const y = top + ((size[plane.up] - 0.5 - state.voxel[plane.up]) / size[plane.up]) * tall;
    const gap = 8 * ratio;
    context.strokeStyle = "rgba(90, 204, 255, 0.8)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, y, x - gap, y], [x + gap, y, left + wide, y], [x, top, x, y - gap], [x, y + gap, x, top + tall],
    ]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
    if (state.frame) drawFrame(tile, context);
    const pixel = (across, up) => [left + (1 - across) * wide, top + (1 - up) * tall];
    drawRings(context, rings(state.scan, state.places, state.voxel.map(Math.round), plane), pixel, ratio);
  }

  function drawFrame(tile, context) {
    const { width, height, ratio, left, top, wide, tall } = area(tile);
    context.strokeStyle = `rgb(${OUTLINE})`;
    context.lineWidth = 2 * ratio;
    const inside = (value, length) => Math.min(Math.max(value, ratio), length - ratio); // not half outside the tile
    const x = (part) => inside(left + (1 - part) * wide, width), y = (part) => inside(top + (1 - part) * tall, height);
    for (const [x0, y0, x1, y1, beyond] of outline(state.scan, state.frame, state.voxel.map(Math.round), tile.plane)) {
      context.setLineDash(beyond ? [6 * ratio, 6 * ratio] : []);
      context.beginPath();
      context.moveTo(x(x0), y(y0));
      context.lineTo(x(x1), y(y1));
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** Paint the slice with its heat map, one pixel per voxel. */
  function paint(picture, plane) {
    const { width, height } = picture;
    const pixels = new ImageData(width, height);
    const scan = layout(state.scan);
    const heat = state.overlay && state.heat.shown ? layout(state.overlay) : null;
    const { opacity, threshold } = state.heat;
    const gain = 255 / (state.high - state.low);
    const at = state.voxel.map(Math.round);
    // from pixel to pixel, the position in the overlay changes by constant steps
    const origin = [0, 0, 0], right = [0, 0, 0], down = [0, 0, 0];
    if (heat) {
      const place = (voxel) => toVoxel(state.overlay, toWorld(state.scan, voxel));
      const corner = at.slice();
      corner[plane.across] = width - 1;
      corner[plane.up] = height - 1;
      const toTheRight = corner.slice(), below = corner.slice();
      toTheRight[plane.across] -= 1;
      below[plane.up] -= 1;
      const [c, b, d] = [corner, toTheRight, below].map(place);
      for (const axis of [0, 1, 2]) {
        origin[axis] = c[axis];
        right[axis] = b[axis] - c[axis];
        down[axis] = d[axis] - c[axis];
      }
    }
    const base = scan.start + at[plane.through] * scan.step[plane.through];
    for (let v = 0, out = 0; v < height; v++) {
      const row = base + (height - 1 - v) * scan.step[plane.up];
      for (let u = 0; u < width; u++, out += 4) {
        const stored = scan.values[row + (width - 1 - u) * scan.step[plane.across]];
        const grey = Math.min(Math.max((stored * scan.slope + scan.inter - state.low) * gain, 0), 255);
        let colour = null;
        if (heat) {
          const value = sample(
            heat,
            origin[0] + u * right[0] + v * down[0],
            origin[1] + u * right[1] + v * down[1],
            origin[2] + u * right[2] + v * down[2],
          );
          if (value !== null && value >= threshold) colour = table[Math.min(Math.round(value * 255), 255)];
        }
        for (let channel = 0; channel < 3; channel++) {
          pixels.data[out + channel] = colour ? grey * (1 - opacity) + colour[channel] * opacity : grey;
        }
        pixels.data[out + 3] = 255;
      }
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
  }

  function point(tile, event) {
    if (!state.scan) return;
    const { left, top, wide, tall, ratio } = area(tile);
    const box = tile.canvas.getBoundingClientRect();
    const across = ((event.clientX - box.left) * ratio - left) / wide;
    const down = ((event.clientY - box.top) * ratio - top) / tall;
    const size = shape(state.scan), voxel = state.voxel.slice();
    const clamp = (index, count) => Math.min(Math.max(index, 0), count - 1);
    const { plane } = tile;
    voxel[plane.across] = clamp(Math.round((1 - across) * size[plane.across] - 0.5), size[plane.across]);
    voxel[plane.up] = clamp(Math.round((1 - down) * size[plane.up] - 0.5), size[plane.up]);
    state.voxel = voxel;
    refresh();
    moved(voxel);
  }
  for (const tile of tiles) {
    tile.canvas.addEventListener("pointerdown", (event) => {
      tile.canvas.setPointerCapture(event.pointerId);
      point(tile, event);
    });
    tile.canvas.addEventListener("pointermove", (event) => event.buttons & 1 && point(tile, event));
  }

  return {
    canRender: false,
    show(scan, overlay, frame) {
      Object.assign(state, { scan, overlay, frame, low: scan.cal_min, high: scan.cal_max });
      refresh();
    },
    clear() {
      Object.assign(state, nothing);
      refresh();
    },
    setView(name) {
      place.dataset.view = name;
      refresh();
    },
    setVoxel(voxel) {
      state.voxel = voxel;
      refresh();
    },
    mark(places) {
      state.places = places;
      refresh();
    },
    setWindow(low, high) {
      Object.assign(state, { low, high });
      refresh();
    },
    setOverlay(heat) {
      state.heat = heat;
      table = colours(heat.colormap);
      refresh();
    },
    turn() {},
    destroy() {
      cancelAnimationFrame(pending);
      resized.disconnect();
      place.querySelectorAll(".grn-side").forEach((label) => label.remove());
    },
  };
}
