// All together: what is looked at, drawn again whenever something else is chosen.
const pictured = pack.picture || pack.sheets.length;
const first = pictured ? stage() : null, second = pictured && controls.size ? stage() : null;
const over = patch => {
  if (patch === state.patch) return;
  state.patch = patch;
  draw(null, true);
};
const code = make("code");
const copy = make("div", {hidden: ""}, make("span", {class: "soft"}, "patches that you clicked: "), code);
const clicked = () => [...state.chosen].sort((a, b) => a - b);
const choose = patch => {
  if (patch < 0) return;
  state.chosen.has(patch) ? state.chosen.delete(patch) : state.chosen.add(patch);
  code.textContent = `rows = [${clicked().join(", ")}]`;
  copy.hidden = !state.chosen.size;
  draw(null);
};
const seen = () => ({array: state.array ?? "", layer: state.layer, head: state.head, token: state.token, item: state.item, run: state.run, selected: clicked()});
host.mmlens = {seen, set: values => {  // what a kernel asks for; see live.js
  const {selected, ...others} = values, run = state.run;
  Object.assign(state, others);
  if (arrays[state.array]?.run && state.run === run) state.run = runs.indexOf(arrays[state.array].run);
  else if (state.run !== run) pick(arrays[state.array]?.title, state.run);
  if (selected) state.chosen = new Set(selected);
  draw(null);
}};
let turn = 0, stale = true;  // stale: more has changed than what the pointer is over
const draw = async (announced, passing = false) => {
  stale ||= !passing;
  const mine = ++turn, array = arrays[state.array], drawn = array?.axes[array.axes.length - 1];
  const numbers = drawn === "patch" ? await slice(state.array) : null;
  const others = drawn === "patch" && array.control ? await slice(array.control) : null;
  if (array?.each && numbers && stale) {
    const alike = peers(array), limit = ownLimit(await Promise.all(alike.map(name => slice(name))));
    for (const name of alike) [arrays[name].own, arrays[name].cut] = limit;
  }
  if (mine !== turn) return;
  if (first) paint(first, drawn === "patch" ? state.array : null, numbers);
  if (second) { second.figure.hidden = !others; if (others) paint(second, array.control, others); }
  for (const part of parts) if (stale || part.follows) part.update();
  if (stale) { if (drawn === "group") await drawGrid(state.array); else grid.replaceChildren(); }
  stale = false;
  if (pictured) tabulate(array, numbers, others);
  host.dispatchEvent(new CustomEvent("mmlens-change", {detail: seen()}));
  readWords(state.patch);
  if (state.patch >= 0 && numbers && state.patch < numbers.length) {
    say(`patch ${label("patch", state.patch)}: ${`${shown(numbers[state.patch])} ${array.unit}`.trim()}` + (others ? `; control ${shown(others[state.patch])}` : ""));
  } else if (announced === "run") say(runs[state.run]);
  else if (announced === "ranked") say(`${state.ranked} ${pack.ranked.name}`);
  else if (announced && announced !== "array") say(`${announced} ${label(announced, state[announced]).replace("\t", " ")}`);
  else if (numbers?.every(Number.isNaN)) say("left out here: see below");
};
const sheetOfStyle = document.createElement("style");
sheetOfStyle.textContent = style;
root.append(sheetOfStyle, make("section", {"aria-label": pack.headline, tabindex: runs.length > 1 ? 0 : -1},
  make("p", {class: "head"}, pack.headline), pack.caption ? make("p", {class: "soft"}, pack.caption) : null,
  make("div", {class: "pictures"}, ...[first, second].filter(Boolean).map(view => view.figure), panel),
  ranked, drawing, grid, ...(pack.arrays.length || words || drawing || pictured ? [seenStatus, spoken] : []), reading, copy, asTable, ...pack.tables.map(folded),
  pack.notes.length ? make("footer", {}, pack.notes.join(" ")) : null));
// Jupyter's own keys (a, b, dd) would insert and delete cells while somebody types here
host.dataset.lmSuppressShortcuts = "true";
for (const kind of ["keydown", "keypress", "keyup"]) host.addEventListener(kind, event => event.stopPropagation());
root.addEventListener("keydown", () => { byKey = true; }, true);
for (const kind of ["pointermove", "pointerdown"]) root.addEventListener(kind, () => { byKey = false; }, true);
const dark = () => {
  const page = document.body, lab = page.dataset.jpThemeLight, theme = document.documentElement.dataset.theme || page.dataset.theme;
  const is = lab ? lab === "false" : page.classList.contains("vscode-dark") || page.classList.contains("vscode-high-contrast")
    || (!page.classList.contains("vscode-light") && theme === "dark")
    || (!lab && (!theme || theme === "auto") && !page.className.includes("vscode") && matchMedia("(prefers-color-scheme: dark)").matches);
  host.classList.toggle("dark", is);
};
dark();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dark);
new MutationObserver(dark).observe(document.body, {attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-theme"]});
const ready = words ? Promise.all([inflated(pack.words.ids), inflated(pack.words.shares)]).then(([ids, shares]) => {
  words.ids = pack.words.wide ? new Uint32Array(ids.buffer) : new Uint16Array(ids.buffer);
  words.shares = shares;
}) : Promise.resolve();
ready.then(() => draw(null)).then(() => { host.dataset.ready = "true"; });
