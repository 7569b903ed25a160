// What a pack holds, as numbers and colours. Four files make the viewer, joined by show.py: numbers, stage, panels, viewer.
// Plain JavaScript in a shadow root, without a network.
const host = document.getElementById(id);
if (!host || host.shadowRoot) return;
const pack = JSON.parse(host.querySelector("script[type='application/json']").textContent);
const root = host.attachShadow({mode: "open"});
host.querySelectorAll("img, [data-still]").forEach(still => still.remove());

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
};
const bytes = text => Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), c => c.charCodeAt(0));
const inflated = async text => new Uint8Array(await new Response(
  new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
const shown = value => value === null || Number.isNaN(value) ? "none" : Number.isInteger(value) ? String(value) : Math.abs(value) >= 100 ? value.toFixed(0)
  : Math.abs(value) >= 0.1 ? value.toFixed(2) : value === 0 ? "0" : value.toPrecision(2);
const label = (axis, index) => pack.labels[axis]?.[index] ?? String(index);
const colors = Object.fromEntries(Object.entries(pack.colors).map(([name, text]) => [name, bytes(text)]));

const arrays = Object.fromEntries(pack.arrays.map(array => [array.name, {...array, codes: [], length: array.shape[array.shape.length - 1],
  rows: array.exact ? null : new Float32Array(bytes(array.largest).buffer)}]));
const controls = new Set(pack.arrays.map(array => array.control).filter(Boolean));
const isMatrix = array => array.axes[array.axes.length - 1] === "head";
const main = pack.arrays.filter(array => !controls.has(array.name) && !isMatrix(array)).map(array => array.name);
const matrix = pack.arrays.find(isMatrix)?.name;
const runs = pack.runs, titles = [...new Set(main.map(name => arrays[name].title))];
const state = {array: main[0], layer: 0, head: 0, run: 0, item: 0, token: 0, ...pack.start, patch: -1, chosen: new Set()};
/** Shows a run, or another quantity of the same run. */
const pick = (title, run) => {
  const there = main.filter(name => !runs.length || !arrays[name].run || arrays[name].run === runs[run]);
  state.array = there.find(name => arrays[name].title === title) ?? there[0];
  state.run = run;
};
const sheet = () => pack.sheets.length ? pack.sheets[Math.min(state.item * Math.max(1, runs.length) + state.run, pack.sheets.length - 1)] : pack;
const boxOf = i => sheet().boxes.slice(4 * i, 4 * i + 4);

const chunk = async (array, index) => {
  if (!array.codes[index]) {
    const raw = await inflated(array.chunks[index]);
    array.codes[index] = array.exact ? new Float32Array(raw.buffer) : raw;
  }
  return array.codes[index];
};
const value = (array, codes, place, row) => {
  if (array.exact) return codes[place];
  const code = array.signed ? (codes[place] << 24) >> 24 : codes[place];
  if (code === (array.signed ? -128 : 255)) return NaN;
  const share = code / (array.signed ? 127 : 254);
  return Math.sign(share) * share * share * array.rows[row];
};
/** The numbers along the last axis of an array, where the other axes are as they are chosen; or one of them. */
const slice = async (name, where = state, only = null) => {
  const array = arrays[name], sizes = array.shape.slice(0, -1);
  let row = 0;
  array.axes.slice(0, -1).forEach((axis, i) => { row = row * sizes[i] + Math.min(where[axis], sizes[i] - 1); });
  const perChunk = sizes.slice(array.apart).reduce((a, b) => a * b, 1), index = Math.floor(row / perChunk);
  const codes = array.chunks[index] ? await chunk(array, index) : null, start = (row % perChunk) * array.length;
  const read = i => codes ? value(array, codes, start + i, row) : NaN;
  return only === null ? Float32Array.from({length: array.length}, (_, i) => read(i)) : read(only);
};

const step = (table, share) => {
  const at = 3 * Math.max(0, Math.min(63, Math.round(share * 63)));
  return [table[at], table[at + 1], table[at + 2]];
};
const scaleOf = array => array.scale === "signed" ? colors.signed : colors.map;
const range = array => {
  const limit = array.own ?? array.limit;
  return array.scale === "signed" ? [-limit, limit] : array.scale === "range" ? [array.least, limit] : [0, limit];
};
/** A limit for these maps alone: one patch that outshines all others (a sink) is cut off, and the bar says so. */
const ownLimit = maps => {
  const sizes = maps.flatMap(map => [...map]).filter(number => !Number.isNaN(number)).map(Math.abs).sort((a, b) => a - b);
  if (!sizes.length) return [0, false];
  const most = sizes[sizes.length - 1], usual = sizes[Math.floor(0.98 * (sizes.length - 1))];
  return most > 2 * usual && usual > 0 ? [usual, true] : [most, false];
};
/** The arrays that are looked at on one scale: the same quantity of all runs, and their controls. */
const peers = array => main.filter(name => arrays[name].title === array.title && arrays[name].scale === array.scale)
  .flatMap(name => [name, arrays[name].control]).filter(Boolean);
const color = (array, number) => {
  const [low, high] = range(array);
  return step(scaleOf(array), high > low ? (number - low) / (high - low) : 0);
};
// what is near zero lets the picture through, and what is strong still shows what it lies on
const strength = (array, number) => {
  const [low, high] = range(array), reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return array.scale === "range" ? 0.6 : (array.scale === "signed" ? 0.08 : 0) + 0.6 * Math.min(1, Math.abs(number) / reach);
};
