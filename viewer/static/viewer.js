// The viewer component: its controls, the scene it received, and the view that draws it. The view is planes.js, or
// slices.js without WebGL2.

import { planesView, whyNot } from "./planes.js";
import { listPlaces } from "./places.js";
import { slicesView } from "./slices.js";
import { colours, layout, readVolume, sample, shape, toVoxel, toWorld } from "./volumes.js";

// lightness rises evenly with the value, so colour-blind readers can use them; names as in NiiVue
const COLORMAPS = { inferno: "Inferno", plasma: "Plasma", viridis: "Viridis", cividis: "Cividis" };
const EMPTY = "Choose a scan to see it here.";

/** Gradio calls this once per component, through viewer/niivue.py. */
async function mount(element, props, watch) {
  const root = element.querySelector(".grn-viewer");
  const find = (selector) => root.querySelector(selector);
  const all = (selector) => Array.from(root.querySelectorAll(selector));
  const stage = find(".grn-stage");
  const settings = { view: "multi", shown: true, opacity: 0.5, threshold: 0.3, colormap: "inferno", marked: true };
  let planes = null; // the view with WebGL2, if available
  let pictures = null; // the view without WebGL2, created when first needed
  let why = null; // why there is no `planes`
  let view = null; // the view in use
  let loading = null; // the AbortController of the scene that is loading
  let current = null; // { scene, scan, overlay, voxel }

  // ---- display ----

  function say(state, text = "") {
    root.dataset.state = state;
    find(".grn-message").textContent = text;
    find(".grn-message").setAttribute("role", state === "error" ? "alert" : "status");
    for (const control of all(".grn-controls fieldset, .grn-views button")) control.disabled = state !== "ready";
    find(".grn-views [data-view=render]").disabled ||= !view?.canRender;
    find(".grn-overlay").hidden = !current?.overlay;
    find(".grn-peak").hidden = !(state === "ready" && current?.scene.peak);
    find(".grn-frame").hidden = !(state === "ready" && current?.scene.frame);
    find(".grn-places").hidden = !(state === "ready" && current?.scene.places.length);
  }

  async function load() {
    loading?.abort();
    loading = null;
    current = null;
    view.clear();
    find(".grn-name").textContent = "";
    find(".grn-location").textContent = "";
    // gradio passes a proxy, and an empty string for None
    const scene = props.value ? JSON.parse(JSON.stringify(props.value)) : null;
    if (!scene) return say("empty", EMPTY);
    say("loading", "Loading the scan…");
    const mine = (loading = new AbortController());
    try {
      const [scan, overlay] = await Promise.all(
        [scene.scan, scene.overlay].map((volume) => volume && readVolume(volume, mine.signal)),
      );
      if (mine.signal.aborted) return; // a newer scene is loading
      show(scene, scan, overlay);
    } catch (error) {
      if (mine.signal.aborted) return;
      mine.abort(); // cancel the other download
      current = null;
      console.warn("viewer:", error);
      say("error", error.message);
    }
  }

  function show(scene, scan, overlay) {
    pick(planes ? planes.tooMuch(scan) : why);
    scan.cal_min = scene.cal_min;
    scan.cal_max = scene.cal_max;
    current = { scene, scan, overlay, voxel: [0, 0, 0] };
    applyOverlay();
    view.show(scan, overlay, scene.frame);
    listPlaces(find(".grn-places tbody"), scene.places, written, jump);
    mark();
    setRanges();
    showWindow(scene.cal_min, scene.cal_max);
    setView(view.canRender || settings.view !== "render" ? settings.view : "multi");
    goTo(scene.peak ? toVoxel(scan, scene.peak) : shape(scan).map((size) => (size - 1) / 2));
    find(".grn-name").textContent = scene.name;
    say("ready");
  }

  /** Use the view with WebGL2. If there is a reason not to, show it and use the other view. */
  function pick(reason) {
    const next = reason ? (pictures ??= slicesView(find(".grn-slices"), { moved })) : planes;
    if (view !== next) view?.clear();
    view = next;
    find(".grn-why").textContent = reason ?? "";
    find(".grn-why").hidden = !reason;
    find(".grn-render").hidden = view === pictures;
    find(".grn-slices").hidden = view !== pictures;
    root.classList.toggle("grn-pictures", view === pictures);
  }

  // ---- the crosshair ----

  /** A position in millimetres (R, A, S) as a reader expects it. */
  const written = (mm) =>
    mm.map((value, axis) => `${value < 0 ? "LPI"[axis] : "RAS"[axis]} ${Math.abs(value).toFixed(1)}`).join("  ");

  function goTo(voxel) {
    const size = shape(current.scan);
    moved(voxel.map((index, axis) => Math.min(Math.max(Math.round(index), 0), size[axis] - 1)));
    view.setVoxel(current.voxel);
  }

  function moved(voxel) {
    if (!current) return;
    current.voxel = voxel;
    const mm = toWorld(current.scan, voxel);
    const parts = [`${written(mm)} mm`];
    const intensity = sample(layout(current.scan), ...voxel.map(Math.round));
    if (intensity !== null) parts.push(`intensity ${number(intensity)}`);
    if (current.overlay) {
      const heat = sample(layout(current.overlay), ...toVoxel(current.overlay, mm));
      if (heat !== null) parts.push(`heat ${heat.toFixed(2)}`);
    }
    find(".grn-location").textContent = parts.join("  ·  ");
    for (const input of all("[data-axis]")) {
      const index = Math.round(voxel[input.dataset.axis]);
      input.value = index;
      readout(input, `${index + 1} / ${Number(input.max) + 1}`);
    }
  }

  /** Go to a position in millimetres. */
  function jump(position) {
    goTo(toVoxel(current.scan, position));
    if (settings.view === "render") setView("multi"); // in 3D it may be hidden inside the head
  }

  // ---- the controls ----

  const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());

  function readout(input, text) {
    input.nextElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  function setRanges() {
    const { scan, scene } = current;
    for (const input of all("[data-axis]")) input.max = shape(scan)[input.dataset.axis] - 1;
    const width = scene.cal_max - scene.cal_min;
    for (const input of all("[data-window]")) {
      input.min = scene.cal_min - width / 2;
      input.max = scene.cal_max + width;
      input.step = width / 100;
    }
  }

  function showWindow(low, high) {
    for (const [name, value] of Object.entries({ low, high })) {
      const input = find(`[data-window=${name}]`);
      input.value = value;
      readout(input, number(value));
    }
  }

  function setWindow(low, high) {
    showWindow(low, high);
    view.setWindow(low, high);
  }

  const resetWindow = () => setWindow(current.scene.cal_min, current.scene.cal_max);

  function applyOverlay() {
    const { opacity, threshold, colormap, shown } = settings;
    find("[data-overlay=shown]").checked = shown;
    find("[data-overlay=colormap]").value = colormap;
    for (const [name, value] of Object.entries({ opacity, threshold })) {
      const input = find(`[data-overlay=${name}]`);
      input.value = Math.round(value * 100);
      readout(input, name === "opacity" ? `${Math.round(value * 100)} %` : value.toFixed(2));
    }
    const canvas = find(".grn-legend canvas");
    const pixels = new ImageData(256, 1);
    colours(colormap).forEach((rgb, level) => pixels.data.set([...rgb, level / 255 < threshold ? 0 : 255], 4 * level));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    view.setOverlay(settings);
  }

  const mark = () => view.mark(settings.marked ? current.scene.places : []);

  function setView(name) {
    settings.view = root.dataset.view = name;
    for (const button of all(".grn-views button")) button.setAttribute("aria-pressed", button.dataset.view === name);
    view.setView(name);
  }

  for (const [value, text] of Object.entries(COLORMAPS)) find("[data-overlay=colormap]").add(new Option(text, value));
  find(".grn-views").addEventListener("click", ({ target }) => target.dataset.view && setView(target.dataset.view));
  find(".grn-peak").addEventListener("click", () => jump(current.scene.peak));
  find("[data-places=marked]").addEventListener("input", ({ target }) => {
    settings.marked = target.checked;
    mark();
  });
  find(".grn-reset").addEventListener("click", resetWindow);
  find(".grn-positions").addEventListener("input", ({ target }) => {
    const voxel = current.voxel.map(Math.round);
    voxel[target.dataset.axis] = Number(target.value);
    goTo(voxel);
  });
  find(".grn-window").addEventListener("input", ({ target }) => {
    let low = Number(find("[data-window=low]").value), high = Number(find("[data-window=high]").value);
    const least = Number(target.step); // black must stay below white, so move the other slider too
    if (high - low < least) [low, high] = target.dataset.window === "low" ? [low, low + least] : [high - least, high];
    setWindow(low, high);
  });
  find(".grn-overlay").addEventListener("input", ({ target }) => {
    const { overlay: name } = target.dataset;
    if (name === "shown") settings.shown = target.checked;
    else settings[name] = name === "colormap" ? target.value : Number(target.value) / 100;
    applyOverlay();
  });

  // listen in the capture phase, so that NiiVue's own keys (H, J, K, L, and some that open dialogues) do nothing
  stage.addEventListener("keydown", (event) => {
    if (event.key === "Tab" || !current) return;
    event.stopPropagation();
    const across = { ArrowLeft: 1, ArrowRight: -1 }[event.key] ?? 0;
    const up = { ArrowUp: 1, ArrowDown: -1 }[event.key] ?? 0;
    const through = { PageUp: 1, PageDown: -1 }[event.key] ?? 0;
    if (!across && !up && !through) return;
    event.preventDefault();
    if (settings.view === "render") return view.turn(across * 5, up * 5);
    const [x, y, z] = current.voxel;
    if (settings.view === "coronal") goTo([x + across, y + through, z + up]);
    else if (settings.view === "sagittal") goTo([x + through, y + across, z + up]);
    else goTo([x + across, y + up, z + through]);
  }, true);

  function lost() {
    planes.destroy();
    planes = view = null;
    why = "The graphics card stopped responding, so only flat slices are shown. Reload the page for the 3D view.";
    pick(why);
    load();
  }

  // ---- start ----

  say("empty", EMPTY);
  why = whyNot();
  if (!why) {
    try {
      planes = await planesView(find(".grn-render"), { moved, windowed: showWindow, lost });
    } catch (error) {
      console.warn("viewer:", error);
      why = "WebGL2 could not be started in this browser, so only flat slices are shown, without the 3D view.";
    }
  }
  pick(why);
  watch("value", load);
  root.dataset.started = ""; // from now on the viewer reacts to new scenes
  await load();

  // gradio removes the component from the page when it is hidden: free the graphics memory
  const gone = new MutationObserver(() => {
    if (root.isConnected) return;
    gone.disconnect();
    loading?.abort();
    planes?.destroy();
    pictures?.destroy();
  });
  gone.observe(document.body, { childList: true, subtree: true });
}

window.GloResNetViewer = { mount };
