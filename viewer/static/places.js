// The places that the local stream found suspicious: their list, and the rings that mark them in slices.

import { shape, toVoxel } from "./volumes.js";

const RADIUS_MM = 3; // of a ring in the slice through its place: places are at least this far apart
const LEAST_PIXELS = 5;
const TEXT_PIXELS = 13;

/**
 * The rings on a plane through a voxel: those of all places that are less than 3 mm from it, smaller the farther away.
 *
 * `plane` names the axes across, up and through. Returns `rank`, the place (`x`, `y`) in fractions of the scan's extent,
 * and `radius` in fractions of the extent across, of each.
 */
export function rings(image, places, voxel, { across, up, through }) {
  const size = shape(image), spacing = image.pixDimsRAS.slice(1);
  return places.flatMap(({ position_mm: position }, index) => {
    const at = toVoxel(image, position);
    const away = Math.abs(at[through] - voxel[through]) * spacing[through];
    if (away >= RADIUS_MM) return [];
    const [x, y] = [across, up].map((axis) => (at[axis] + 0.5) / size[axis]);
    return [{ rank: index + 1, x, y, radius: Math.sqrt(RADIUS_MM ** 2 - away ** 2) / (size[across] * spacing[across]) }];
  });
}

/**
 * Draw rings with their ranks: white on black, which stands out from every grey and every colour of a heat map.
 *
 * `pixel` gives the pixel at a place, and `ratio` is that of device to CSS pixels. A rank that would cover the ring or rank
 * of a more suspicious place in every corner is left out.
 */
export function drawRings(context, found, pixel, ratio) {
  context.font = `600 ${TEXT_PIXELS * ratio}px sans-serif`;
  context.textBaseline = "top";
  context.lineJoin = "round";
  const extent = Math.abs(pixel(1, 0)[0] - pixel(0, 0)[0]);
  const drawn = found.map(({ rank, x, y, radius }) => {
    const [left, top] = pixel(x, y), reach = Math.max(radius * extent, LEAST_PIXELS * ratio);
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.beginPath();
      context.arc(left, top, reach, 0, 2 * Math.PI);
      context.stroke();
    }
    return { rank, left, top, reach };
  });
  const taken = [];
  for (const { rank, left, top, reach } of drawn) { // after the rings, which must not cover them
    const edge = 0.71 * reach + 2 * ratio, wide = context.measureText(rank).width, tall = TEXT_PIXELS * ratio;
    const corners = [[edge, -edge - tall], [-edge - wide, -edge - tall], [edge, edge], [-edge - wide, edge]];
    const box = corners
      .map(([x, y]) => [left + x, top + y, left + x + wide, top + y + tall])
      .find((box) => taken.every(([a, b, c, d]) => box[2] < a || box[0] > c || box[3] < b || box[1] > d));
    taken.push([left - reach, top - reach, left + reach, top + reach]);
    if (!box) continue;
    taken.push(box);
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#000";
    context.strokeText(rank, box[0], box[1]);
    context.fillStyle = "#fff";
    context.fillText(rank, box[0], box[1]);
  }
}

/** Fill the table of places. `written` makes text of a position; `jump` goes to it when the user asks. */
export function listPlaces(body, places, written, jump) {
  body.replaceChildren(
    ...places.map(({ probability, position_mm: position, side }, index) => {
      const row = document.createElement("tr");
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: `Go to ${index + 1}` });
      button.addEventListener("click", () => jump(position));
      const chance = probability > 0.999 ? "> 0.999" : probability.toFixed(3);
      const place = written(position).replace(/([A-Z]) /g, "$1\u00a0"); // a line breaks between axes only
      for (const content of [button, chance, side, place]) {
        row.append(document.createElement("td"));
        row.lastChild.append(content);
      }
      return row;
    }),
  );
}
