// Buttons, lists and tables.
const used = axis => pack.arrays.some(array => array.axes.includes(axis)) || (axis === "layer" && pack.words) || (axis === "item" && pack.sheets.length);
const size = axis => Math.max(...pack.arrays.filter(array => array.axes.includes(axis)).map(array => array.shape[array.axes.indexOf(axis)]),
  axis === "layer" && words ? words.shape[1] : 0, axis === "item" && pack.sheets.length ? pack.labels.item.length : 0);
const set = (axis, index) => {
  state[axis] = Math.max(0, Math.min(index, size(axis) - 1));
  draw(axis);
};
const arrows = (event, moves) => {
  const move = moves[event.key];
  if (move) event.preventDefault();
  return move;
};
/** Buttons of which one is pressed; one tab stop, arrows go on. */
const choices = (names, get, put, title, kind = "row") => {
  const bars = names.map(() => make("i"));
  const buttons = names.map((name, i) => make("button", {role: "radio", type: "button", onclick: () => put(i)},
    ...(kind === "tokens" ? [make("span", {class: "share", "aria-hidden": "true"}, bars[i])] : []), name));
  const group = make("div", {class: kind, role: "radiogroup", "aria-label": title}, ...buttons);
  group.addEventListener("keydown", event => {
    const move = arrows(event, {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1});
    if (!move) return;
    put((get() + move + names.length) % names.length);
    buttons[get()].focus();
  });
  const update = () => buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", i === get());
    button.tabIndex = i === get() ? 0 : -1;
  });
  return {element: group, update, bars, buttons};
};
const slider = (name, most, least, get, put, text) => {
  const input = make("input", {type: "range", min: least, max: most, "aria-label": name, oninput: event => put(+event.target.value)}), output = make("output");
  return {element: make("div", {class: "row"}, make("label", {}, name), input, output), update: () => {
    input.value = get(); output.textContent = text(get()); input.setAttribute("aria-valuetext", text(get())); }};
};
const parts = [], panel = make("div", {class: "panel"});
const add = (part, where = panel) => { parts.push(part); where?.append(part.element); return part; };
const ranked = make("div", {class: "ranked"});

// ---- what is shown: quantities, runs, layers
if (titles.length > 1) add(choices(titles, () => titles.indexOf(arrays[state.array]?.title), i => { pick(titles[i], state.run); draw("array"); }, "what is shown"));
const toRun = run => { pick(arrays[state.array]?.title, run); draw("run"); };
if (runs.length > 1) {
  const part = choices(runs, () => state.run, toRun, "run");
  let back = null;
  const flip = () => { if (back === null) { back = state.run; toRun(state.run === 1 ? 0 : 1); } };
  const flipBack = () => { if (back !== null) { const run = back; back = null; toRun(run); } };
  const button = make("button", {type: "button", class: "flip", title: `hold: ${runs[0]} and ${runs[1]} in turn`,
    onpointerdown: flip, onpointerup: flipBack, onpointerleave: flipBack}, "hold Space to flip");
  part.element.append(button);
  host.addEventListener("keydown", event => {
    if (event.key !== " " || event.composedPath()[0].closest("summary")) return;
    event.preventDefault();
    if (!event.repeat) flip();
  });
  host.addEventListener("keyup", event => { if (event.key === " " && back !== null) { event.preventDefault(); flipBack(); } });
  host.addEventListener("focusout", event => { if (!root.contains(event.relatedTarget)) flipBack(); });
  add(part);
}
if (used("layer") && size("layer") > 1 && (pack.picture || pack.sheets.length || matrix)) {
  add(slider("layer", size("layer") - 1, 0, () => state.layer, layer => set("layer", layer), layer => label("layer", layer).replace(/^layer /, "")));
}
if (pack.ranked && ranks.length) {  // the slider asks for so many, the strongest first
  const sizes = {};
  for (const part of ranks) if (part.dataset.size) sizes[part.dataset.rank] = +part.dataset.size;
  const total = Object.keys(sizes).length;
  state.ranked = Math.min(total, pack.ranked.start);
  add(slider(pack.ranked.name, total, 1, () => state.ranked, count => { state.ranked = count; draw("ranked"); },
    count => `${count} of ${total}, ${pack.ranked.quantity} \u2265 ${shown(sizes[count - 1])}`), ranked);
  parts.push({update: () => ranks.forEach(part => { part.style.display = +part.dataset.rank < state.ranked ? "" : "none"; })});
}

// ---- heads by layer
if (matrix) {
  const array = arrays[matrix], table = make("table", {class: "matrix", role: "grid", "aria-label": "heads by layer", tabindex: 0});
  const layers = array.shape[array.axes.indexOf("layer")], heads = array.length, cells = [];
  const headed = main.find(name => arrays[name].axes.includes("head"));
  const point = (layer, head) => {  // at one head: from now on its own map is shown
    state.layer = Math.max(0, Math.min(layers - 1, layer));
    if (headed) pick(arrays[headed].title, state.run);
    set("head", head);
  };
  for (let layer = layers - 1; layer >= 0; layer--) {
    const row = make("tr", {}, make("th", {}, label("layer", layer)));
    cells[layer] = Array.from({length: heads}, (_, head) => make("td", {role: "gridcell", onclick: () => point(layer, head)}));
    row.append(...cells[layer]);
    table.append(row);
  }
  table.addEventListener("keydown", event => {
    const move = arrows(event, {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1]});
    if (move) point(state.layer + move[0], state.head + move[1]);
  });
  add({element: make("div", {class: "scroll"}, make("div", {class: "soft"}, `${array.title}, heads by layer`), table), update: async () => {
    for (let layer = 0; layer < layers; layer++) {
      const numbers = await slice(matrix, {...state, layer});
      numbers.forEach((number, head) => {
        cells[layer][head].style.background = `rgb(${color(array, number).join()})`;
        cells[layer][head].title = `${label("layer", layer)} ${label("head", head)}: ${shown(number)} ${array.unit}`;
        cells[layer][head].setAttribute("aria-selected", layer === state.layer && head === state.head);
      });
    }
  }});
}
// ---- tokens: the bar above each is what it gives to the picture, or to the patch under the pointer
if (used("token")) {
  const part = add(choices(Array.from({length: size("token")}, (_, i) => label("token", i)), () => state.token, i => set("token", i), "token", "tokens"));
  const {update} = part;
  part.follows = true;
  part.update = async () => {
    update();
    const array = arrays[state.array], over = state.patch >= 0 && array?.axes.includes("token");
    if (!over && !matrix) return;
    const given = await Promise.all(part.bars.map(async (_, token) => {
      if (over) return Math.abs(await slice(state.array, {...state, token}, state.patch));
      const heads = await slice(matrix, {...state, token});
      return array?.axes.includes("head") ? heads[state.head] : heads.reduce((a, b) => a + b, 0) / heads.length;
    }));
    const most = over ? Math.max(...given.filter(number => !Number.isNaN(number))) : 1;
    part.bars.forEach((bar, token) => {
      bar.style.height = `${100 * Math.max(0, Math.min(1, (given[token] || 0) / (most || 1)))}%`;
      part.buttons[token].title = `${label("token", token)}: ${shown(given[token])} ${over ? "to the patch" : "to the picture"}`;
    });
  };
}
if (used("item")) {
  const options = Array.from({length: size("item")}, (_, i) => {
    const [name, ...rest] = label("item", i).split("\t");
    return make("div", {role: "option", onclick: () => set("item", i)}, make("b", {}, name), make("span", {}, rest.join(" ")));
  });
  const list = make("div", {class: "items", role: "listbox", tabindex: 0, "aria-label": "list"}, ...options);
  list.addEventListener("keydown", event => {
    const move = arrows(event, {ArrowDown: 1, ArrowUp: -1});
    if (!move) return;
    set("item", state.item + move);
    options[state.item].scrollIntoView({block: "nearest"});
  });
  if (options.length > 1) add({element: list, update: () => options.forEach((option, i) => option.setAttribute("aria-selected", i === state.item))});
}

// ---- tables
const tableOf = (columns, rows) => make("div", {class: "scroll"}, make("table", {},
  make("thead", {}, make("tr", {}, ...columns.map(name => make("th", {scope: "col"}, name)))),
  make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map(cell => make("td", {class: typeof cell === "number" ? "n" : String(cell).length > 40 ? "long" : null}, cell === null ? "" : String(cell))))))));
const folded = ({title, columns, rows}, number) => make("details", {open: number || pack.arrays.length || pack.picture || drawing || pack.sheets.length ? null : ""},
  make("summary", {}, title), tableOf(columns, rows));
/** The map that is looked at, as rows of patches. */
const asTable = make("details", {hidden: ""}, make("summary", {}, "as table"));
let fill = () => {};
asTable.addEventListener("toggle", () => fill());
const tabulate = (array, numbers, others) => {
  asTable.hidden = !numbers && !words;
  fill = () => {
    asTable.querySelector(".scroll")?.remove();
    if (!asTable.open) return;
    const columns = ["patch", "left", "top", "right", "bottom", ...(numbers ? [`${array.title}${array.unit ? ", " + array.unit : ""}`] : []),
      ...(others ? [arrays[array.control].title] : []), ...(words?.ids ? ["words"] : [])];
    const round = number => Number.isNaN(number) ? null : +number.toPrecision(4);
    asTable.append(tableOf(columns, Array.from({length: sheet().boxes.length / 4}, (_, i) => [label("patch", i), ...boxOf(i).map(Math.round),
      ...(numbers ? [round(numbers[i])] : []), ...(others ? [round(others[i])] : []), ...(words?.ids ? [bestWords(Math.min(state.layer, words.shape[1] - 1), i)] : [])])));
  };
  fill();
};
/** Heat maps of what has no place. */
const grid = make("div", {class: "scroll"});
const drawGrid = async name => {
  const array = arrays[name], layered = array.axes[array.axes.length - 2] === "layer", rows = layered ? array.shape[array.axes.length - 2] : 1;
  const table = make("table", {class: "grid"});
  for (let layer = rows - 1; layer >= 0; layer--) {
    const numbers = await slice(name, {...state, layer: rows > 1 ? layer : state.layer});
    table.append(make("tr", {}, make("th", {scope: "row"}, rows > 1 ? label("layer", layer) : ""), ...[...numbers].map((number, i) => {
      const [red, green, blue] = color(array, number), dark = red * 0.3 + green * 0.59 + blue * 0.11 < 120;
      return make("td", {style: Number.isNaN(number) ? "" : `background:rgb(${red},${green},${blue});color:${dark ? "#fff" : "#111"}`,
        title: `${rows > 1 ? label("layer", layer) + ", " : ""}${label("group", i)}: ${shown(number)} ${array.unit}`}, array.texts ? array.texts[rows > 1 ? layer : 0][i] : numbers.length <= 12 ? shown(number) : "");
    })));
  }
  table.append(make("tr", {}, make("th"), ...Array.from({length: array.length}, (_, i) => make("th", {}, array.length <= 24 ? label("group", i) : i % 5 ? "" : label("group", i)))));
  grid.replaceChildren(make("div", {class: "soft"}, `${array.title}${array.unit ? ", " + array.unit : ""}`), table);
};
