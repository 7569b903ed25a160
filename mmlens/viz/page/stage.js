// The picture with what lies over it, the words of a lens, and drawings.
const seenStatus = make("div", {class: "status"});
const spoken = make("div", {role: "status", "aria-live": "polite", class: "unseen"});
let byKey = false;  // what a pointer passes over is not read out
const say = text => { seenStatus.textContent = text; if (byKey) spoken.textContent = text; };
const stage = () => {
  const canvas = make("canvas", {"aria-hidden": "true"});
  const image = make("img", {alt: "the picture"});
  const name = make("figcaption"), bar = make("canvas", {"aria-hidden": "true"}), ends = [make("span"), make("span")];
  const box = make("div", {class: "stage"}, image, canvas), scale = make("div", {class: "bar"}, ends[0], bar, ends[1]);
  const figure = make("figure", {}, box, scale, name);
  box.addEventListener("pointermove", event => { over(patchAt(box, event)); });
  box.addEventListener("pointerleave", () => { over(-1); });
  box.addEventListener("click", event => { choose(patchAt(box, event)); });
  return {figure, image, canvas, name, bar, ends, scale};
};
const patchAt = (box, event) => {
  const frame = box.getBoundingClientRect(), {size, boxes} = sheet();
  const x = (event.clientX - frame.left) / frame.width * size[0], y = (event.clientY - frame.top) / frame.height * size[1];
  for (let i = (boxes?.length ?? 0) / 4 - 1; i >= 0; i--) {
    const [left, top, right, bottom] = boxOf(i);
    if (x >= left && x < right && y >= top && y < bottom) return i;
  }
  return -1;
};
const paint = (view, name, numbers) => {
  const array = arrays[name], {canvas} = view, {picture, size, boxes, caption} = sheet(), [width, height] = size;
  const zoom = Math.max(1, Math.ceil(640 / Math.max(width, height))), count = (boxes?.length ?? 0) / 4;
  if (view.image.getAttribute("src") !== picture) view.image.src = picture;
  if (pack.sheets.length) view.figure.style.width = `min(${Math.max(320, Math.min(460, width))}px, 100%)`;
  canvas.width = width * zoom; canvas.height = height * zoom;
  const pen = canvas.getContext("2d");
  pen.scale(zoom, zoom);
  numbers?.forEach((number, i) => {
    if (i >= count || Number.isNaN(number)) return;
    const [left, top, right, bottom] = boxOf(i);
    pen.fillStyle = `rgba(${color(array, number).join()},${strength(array, number)})`;
    pen.fillRect(left, top, right - left, bottom - top);
  });
  const frame = ([left, top, right, bottom], ink) => { pen.strokeStyle = ink; pen.strokeRect(left, top, right - left, bottom - top); };
  pen.lineWidth = 4 / zoom;
  pen.setLineDash([10 / zoom, 8 / zoom]);
  pack.outlines.forEach(box => frame(box, "#fff"));
  pen.setLineDash([]);
  for (const i of [...state.chosen, state.patch]) if (i >= 0 && i < count) frame(boxOf(i), i === state.patch ? "#fff" : "#8cf");
  writeWords(pen, zoom);
  view.scale.hidden = !array;
  view.name.textContent = [array?.run ? `${array.title}, ${array.run}` : array?.title, pack.sheets.length ? caption : ""].filter(Boolean).join(". ");
  if (!array) return;
  const [low, high] = range(array);
  view.ends[0].textContent = shown(low);
  view.ends[1].textContent = `${array.cut ? "\u2265 " : ""}${shown(high)} ${array.unit}`;
  view.bar.width = 64; view.bar.height = 1;
  const line = view.bar.getContext("2d");
  for (let i = 0; i < 64; i++) {
    line.fillStyle = `rgb(${step(scaleOf(array), i / 63).join()})`;
    line.fillRect(i, 0, 1, 1);
  }
};

// ---- words of a lens: [run layer patch k]
const words = pack.words && {shape: pack.words.shape, strings: pack.words.strings};
const wordAt = (layer, patch, k = 0) => {
  const [count, layers, patches, best] = words.shape;
  const at = ((Math.min(state.run, count - 1) * layers + layer) * patches + patch) * best + k;
  return [words.strings[words.ids[at]], words.shares[at] / 255];
};
const writeWords = (pen, zoom) => {
  if (!words?.ids) return;
  const layer = Math.min(state.layer, words.shape[1] - 1);
  for (let i = 0; i < words.shape[2]; i++) {
    const [left, top, right, bottom] = boxOf(i), [word, share] = wordAt(layer, i);
    const size = Math.min((bottom - top) * 0.42, 1.6 * (right - left) / Math.max(4, word.length));
    if (size * zoom < 8 || !word || share < 0.1) continue;
    pen.font = `${share > 0.5 ? 600 : 400} ${size}px system-ui,sans-serif`;
    pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineWidth = size / 5;
    pen.strokeStyle = `rgba(0,0,0,${0.2 + 0.6 * share})`; pen.fillStyle = `rgba(255,255,255,${0.45 + 0.55 * share})`;
    pen.strokeText(word, (left + right) / 2, (top + bottom) / 2, right - left);
    pen.fillText(word, (left + right) / 2, (top + bottom) / 2, right - left);
  }
};
const bestWords = (layer, patch) => Array.from({length: words.shape[3]}, (_, k) => wordAt(layer, patch, k))
  .map(([word, share]) => `${word} ${share.toFixed(2)}`).join(", ");
const reading = make("ol", {"aria-label": "words, layer by layer"});
const readWords = patch => {
  reading.replaceChildren();
  if (!words?.ids || patch < 0) return;
  for (let layer = words.shape[1] - 1; layer >= 0; layer--) {
    reading.append(make("li", {}, make("b", {}, label("layer", layer)), ` ${bestWords(layer, patch)}`));
  }
};

// ---- drawings: the strongest edges of a graph, a curve
const drawing = pack.drawing ? make("div", {class: "drawing scroll"}) : null;
if (drawing) {
  drawing.innerHTML = pack.drawing;
  const svg = drawing.firstElementChild;  // fitted to the page, as far as its words can be read
  svg.style.maxWidth = `max(100%, ${Math.round(0.62 * svg.viewBox.baseVal.width)}px)`;
  const near = [[0, 0], [0, 3], [3, 0], [0, -3], [-3, 0], [4, 4], [-4, 4], [4, -4], [-4, -4]];  // lines are thin
  const named = event => near.map(([x, y]) => root.elementFromPoint(event.clientX + x, event.clientY + y)?.closest("[data-name], [data-from], [data-said]"))
    .find(part => part && drawing.contains(part));
  let last;
  drawing.addEventListener("pointermove", event => {
    const part = named(event);
    if (part === last) return;
    last = part;
    say(part?.querySelector("title")?.textContent ?? "");
    for (const other of drawing.querySelectorAll("[data-from], [data-name]")) {
      const {name, from, to} = other.dataset, mine = part?.dataset.name ?? null;
      const close = !part || part.dataset.said || other === part || (mine ? from === mine || to === mine : name === part.dataset.from || name === part.dataset.to);
      other.classList.toggle("far", !close);
    }
  });
}
const ranks = drawing ? [...drawing.querySelectorAll("[data-rank]")] : [];
