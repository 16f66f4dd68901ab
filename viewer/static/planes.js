// The view with WebGL2, drawn by NiiVue. It has the same methods as slices.js.

import { drawRings, rings } from "./places.js";
import { outline, OUTLINE, PLANES, shape } from "./volumes.js";

const { Niivue, SLICE_TYPE, DRAG_MODE, MULTIPLANAR_TYPE, SHOW_RENDER } = globalThis.niivue;

const SLICE_TYPES = {
  multi: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
// the colour map spans 0 to 1, and values below cal_min are invisible. NiiVue 0.69.0 calls 2 "translucent", but its
// shader fades values for 1, not for 2.
const HIDE_BELOW_MINIMUM = 2;

// without a graphics card, a scan of this size takes about three seconds to appear on two cores
const SOFTWARE_VOXELS = 4e6;

const inSoftware = (gl) => {
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
};

/** Why this browser cannot run NiiVue, or null. */
export function whyNot() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return "This browser does not support WebGL2, so only flat slices are shown, without the 3D view.";
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return null;
}

/**
 * Start NiiVue in `place`.
 *
 * Calls `moved(voxel)` when the user moves the crosshair in the image, `windowed(low, high)` when the intensity window
 * changes, and `lost()` when the graphics card stops.
 */
export async function planesView(place, { moved, windowed, lost }) {
  const canvas = place.querySelector("canvas");
  const nv = new Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID,
    multiplanarShowRender: SHOW_RENDER.ALWAYS,
    multiplanarPadPixels: 6,
    showAllOrientationMarkers: true,
    fontMinPx: 13,
    fontSizeScaling: 0.25,
    fontColor: [1, 0.9, 0.55, 1],
    crosshairColor: [0.35, 0.8, 1, 0.8],
    crosshairWidth: 0.5,
    crosshairWidthUnit: "mm",
    crosshairGap: 5,
    tileMargin: 12,
    clipPlaneColor: [0, 0, 0, 0],
    isClipAllVolumes: true,
    show3Dcrosshair: true,
    backColor: [0, 0, 0, 1],
    loadingText: "",
    dragMode: DRAG_MODE.none,
    dragAndDropEnabled: false,
    scrollRequiresFocus: true,
    viewModeHotKey: "",
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
    logLevel: "error",
  });
  nv.onLocationChange = ({ frac }) => {
    if (!nv.volumes.length) return;
    cut();
    moved(Array.from(frac, (part, axis) => part * shape(nv.volumes[0])[axis] - 0.5));
  };
  nv.onIntensityChange = (volume) => windowed(volume.cal_min, volume.cal_max);
  await nv.attachToCanvas(canvas, true);
  canvas.tabIndex = -1; // the stage around it handles the keyboard
  canvas.addEventListener("webglcontextlost", lost);

  // after each picture of NiiVue, draw the outline in the pixels of the same canvas, and the rings on one above it
  let frame = null;
  let places = [];
  const above = document.createElement("canvas");
  Object.assign(above, { className: "grn-rings", ariaHidden: "true" });
  canvas.after(above);
  // `willReadFrequently` keeps it off the graphics card, where Chromium may show older rings after they were cleared
  const pen = above.getContext("2d", { willReadFrequently: true });
  const draw = nv.drawSceneCore.bind(nv);
  nv.drawSceneCore = () => {
    const drawn = draw();
    const { width, height } = nv.gl.canvas;
    if (above.width !== width || above.height !== height) Object.assign(above, { width, height });
    pen.clearRect(0, 0, width, height);
    if (nv.volumes.length) nv.screenSlices.forEach(drawOver);
    return drawn;
  };

  function drawOver({ axCorSag, leftTopWidthHeight, leftTopMM, fovMM }) {
    const plane = [PLANES.axial, PLANES.coronal, PLANES.sagittal][axCorSag];
    if (!plane) return; // 3D
    const size = shape(nv.volumes[0]);
    const at = Array.from(nv.scene.crosshairPos, (part, axis) => Math.round(part * size[axis] - 0.5));
    let [left, top, width, height] = leftTopWidthHeight;
    const mirrored = width < 0;
    if (mirrored) [left, width] = [left + width, -width];
    const pixel = (x, y) => {
      const part = [0, 0, 0];
      part[plane.across] = x;
      part[plane.up] = y;
      const place = nv.frac2mm(part); // the units of leftTopMM and fovMM
      const right = (place[plane.across] - leftTopMM[0]) / fovMM[0], up = (place[plane.up] - leftTopMM[1]) / fovMM[1];
      return [left + (mirrored ? 1 - right : right) * width, top + (1 - up) * height];
    };
    const ratio = nv.uiData.dpr ?? 1;
    if (frame) drawFrame(outline(nv.volumes[0], frame, at, plane), pixel, ratio);
    drawRings(pen, rings(nv.volumes[0], places, at, plane), pixel, ratio);
  }

  function drawFrame(sides, pixel, ratio) {
    const { gl } = nv, { width, height } = gl.canvas;
    const inside = ([x, y]) => [ // not half outside the canvas
      Math.min(Math.max(x, ratio), width - ratio), Math.min(Math.max(y, ratio), height - ratio),
    ];
    gl.viewport(0, 0, width, height);
    const colour = [...OUTLINE.map((value) => value / 255), 1];
    for (const [x0, y0, x1, y1, beyond] of sides) {
      const [from, to] = [inside(pixel(x0, y0)), inside(pixel(x1, y1))];
      const pieces = beyond ? Math.max(Math.round(Math.hypot(to[0] - from[0], to[1] - from[1]) / (6 * ratio)), 1) : 1;
      const between = (share) => [0, 1].map((axis) => from[axis] + share * (to[axis] - from[axis]));
      for (let piece = 0; piece < pieces; piece += 2) {
        nv.drawLine([...between(piece / pieces), ...between((piece + 1) / pieces)], 2 * ratio, colour);
      }
    }
  }

  let pending = 0;
  let redrawScan = false; // false: only the heat map, which is much less work
  function refresh(scanToo) {
    redrawScan ||= scanToo;
    pending ||= requestAnimationFrame(() => {
      pending = 0;
      if (redrawScan && nv.volumes.length) nv.updateGLVolume();
      else if (nv.volumes.length > 1) nv.refreshLayers(nv.volumes[1], 1);
      redrawScan = false;
      nv.drawScene();
    });
  }

  let heat = null;
  function style(overlay) {
    overlay.colormap = heat.colormap; // must come first, because it resets the range
    Object.assign(overlay, {
      colormapType: HIDE_BELOW_MINIMUM,
      cal_min: heat.threshold,
      cal_max: 1,
      opacity: heat.shown ? heat.opacity : 0,
    });
  }

  // set all volumes at once: addVolume would redraw the scan for each, and show the overlay in wrong colours meanwhile
  function hold(volumes) {
    Object.assign(nv, { volumes, back: volumes[0] ?? null, overlays: volumes.slice(1) });
    nv.updateGLVolume();
  }

  // in 3D, cut the head open at the height of the crosshair, so that the heat map inside is visible
  const cut = () => nv.setClipPlane([nv.scene.crosshairPos[2] - 0.5, 0, 90]); // draws

  return {
    canRender: true,
    /** Why WebGL2 cannot show this scan here, or null. */
    tooMuch(scan) {
      const size = shape(scan);
      if (Math.max(...size) > nv.uiData.max3D) {
        return "This scan is too large for the graphics card, so only flat slices are shown, without the 3D view.";
      }
      if (inSoftware(nv.gl) && size[0] * size[1] * size[2] > SOFTWARE_VOXELS) {
        return (
          "This browser has no graphics card and would draw a scan of this size slowly,"
          + " so only flat slices are shown, without the 3D view."
        );
      }
      return null;
    },
    show(scan, overlay, corners) {
      frame = corners;
      nv.setScale(1.3);
      nv.setRenderAzimuthElevation(160, 35); // from the front and above
      if (overlay) style(overlay);
      hold([scan, overlay].filter(Boolean));
    },
    clear() {
      frame = null;
      places = [];
      hold([]);
    },
    setView(name) {
      nv.setSliceType(SLICE_TYPES[name]);
    },
    setVoxel(voxel) {
      const size = shape(nv.volumes[0]);
      nv.scene.crosshairPos = voxel.map((index, axis) => (index + 0.5) / size[axis]);
      cut();
    },
    mark(found) {
      places = found;
      nv.drawScene();
    },
    setWindow(low, high) {
      Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
      refresh(true);
    },
    setOverlay(settings) {
      heat = settings;
      if (nv.volumes.length < 2) return;
      style(nv.volumes[1]);
      refresh(false);
    },
    turn(right, up) {
      nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + right, nv.scene.renderElevation + up);
    },
    destroy() {
      canvas.removeEventListener("webglcontextlost", lost);
      cancelAnimationFrame(pending);
      nv.cleanup();
      above.remove();
      nv.volumes = [];
      nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}
