// Shows one pack: see pack.py for what it holds. Plain JavaScript, in a shadow root, without a network.
(id => {
  const host = document.getElementById(id);
  if (!host || host.shadowRoot) return;
  const pack = JSON.parse(host.querySelector("script[type='application/json']").textContent);
  const style = host.querySelector("template").content.textContent;
  const root = host.attachShadow({mode: "open"});
  host.querySelectorAll("img, [data-still]").forEach(still => still.remove());
  // Jupyter's own keys (a, b, dd) would insert and delete cells while somebody types here
  host.dataset.lmSuppressShortcuts = "true";
  for (const kind of ["keydown", "keypress", "keyup"]) host.addEventListener(kind, event => event.stopPropagation());

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
  const shown = value => value === null || Number.isNaN(value) ? "none" : Math.abs(value) >= 100 ? value.toFixed(0)
    : Math.abs(value) >= 0.1 ? value.toFixed(2) : value === 0 ? "0" : value.toPrecision(2);
  const label = (axis, index) => pack.labels[axis]?.[index] ?? String(index);
  const colors = Object.fromEntries(Object.entries(pack.colors).map(([name, text]) => [name, bytes(text)]));

  // ---- numbers
  const arrays = Object.fromEntries(pack.arrays.map(array => [array.name, {...array,
    rows: array.exact ? null : new Float32Array(bytes(array.largest).buffer), codes: [], length: array.shape[array.shape.length - 1]}]));
  const controls = new Set(pack.arrays.map(array => array.control).filter(Boolean));
  const isMatrix = array => array.axes[array.axes.length - 1] === "head";
  const main = pack.arrays.filter(array => !controls.has(array.name) && !isMatrix(array)).map(array => array.name);
  const matrix = pack.arrays.find(isMatrix)?.name;
  const state = {array: main[0], layer: 0, head: 0, run: 0, item: 0, token: 0, ...pack.start,
    patch: -1, chosen: new Set()};

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
  /** The numbers along the last axis of an array, where the other axes are as they are chosen. */
  const slice = async (name, where = state) => {
    const array = arrays[name], free = array.axes.slice(0, -1), sizes = array.shape.slice(0, -1);
    let row = 0;
    free.forEach((axis, i) => { row = row * sizes[i] + Math.min(where[axis], sizes[i] - 1); });
    const perChunk = sizes.length ? sizes.slice(1).reduce((a, b) => a * b, 1) : 1;
    const codes = await chunk(array, Math.floor(row / perChunk));
    const start = (row % perChunk) * array.length;
    return Float32Array.from({length: array.length}, (_, i) => value(array, codes, start + i, row));
  };

  // ---- colours
  const step = (table, share) => {
    const at = 3 * Math.max(0, Math.min(63, Math.round(share * 63)));
    return [table[at], table[at + 1], table[at + 2]];
  };
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
  const color = (array, number) => {
    const [low, high] = range(array);
    const share = high > low ? (number - low) / (high - low) : 0;
    return step(array.scale === "signed" ? colors.signed : colors.map, share);
  };
  // what is near zero lets the picture through, and what is strong still shows what it lies on
  const strength = (array, number) => {
    const [low, high] = range(array), reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return array.scale === "range" ? 0.6 : (array.scale === "signed" ? 0.08 : 0) + 0.6 * Math.min(1, Math.abs(number) / reach);
  };

  // ---- pieces
  const status = make("div", {role: "status", "aria-live": "polite"});
  const say = text => { status.textContent = text; };
  const stage = () => {
    const canvas = make("canvas", {"aria-hidden": "true"});
    const image = make("img", {src: pack.picture, alt: "the picture"});
    const name = make("figcaption"), bar = make("canvas", {"aria-hidden": "true"}), ends = [make("span"), make("span")];
    const box = make("div", {class: "stage"}, image, canvas);
    const figure = make("figure", {}, box, make("div", {class: "bar"}, ends[0], bar, ends[1]), name);
    box.addEventListener("pointermove", event => { over(patchAt(box, event)); });
    box.addEventListener("pointerleave", () => { over(-1); });
    box.addEventListener("click", event => { choose(patchAt(box, event)); });
    return {figure, canvas, name, bar, ends};
  };
  const patchAt = (box, event) => {
    const frame = box.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width * pack.size[0], y = (event.clientY - frame.top) / frame.height * pack.size[1];
    for (let i = pack.boxes.length / 4 - 1; i >= 0; i--) {
      const [left, top, right, bottom] = pack.boxes.slice(4 * i, 4 * i + 4);
      if (x >= left && x < right && y >= top && y < bottom) return i;
    }
    return -1;
  };
  const paint = (view, name, numbers) => {
    const array = arrays[name], {canvas} = view, [width, height] = pack.size, zoom = Math.max(1, Math.ceil(640 / Math.max(width, height)));
    canvas.width = width * zoom; canvas.height = height * zoom;
    const pen = canvas.getContext("2d");
    pen.scale(zoom, zoom);
    numbers?.forEach((number, i) => {
      if (Number.isNaN(number)) return;
      const [left, top, right, bottom] = pack.boxes.slice(4 * i, 4 * i + 4);
      pen.fillStyle = `rgba(${color(array, number).join()},${strength(array, number)})`;
      pen.fillRect(left, top, right - left, bottom - top);
    });
    pen.lineWidth = 2 / zoom * 2;
    pen.setLineDash([5 / zoom * 2, 4 / zoom * 2]);
    for (const [left, top, right, bottom] of pack.outlines) {
      pen.strokeStyle = "#fff"; pen.strokeRect(left, top, right - left, bottom - top);
    }
    pen.setLineDash([]);
    for (const i of [...state.chosen, state.patch]) if (i >= 0) {
      const [left, top, right, bottom] = pack.boxes.slice(4 * i, 4 * i + 4);
      pen.strokeStyle = i === state.patch ? "#fff" : "#8cf"; pen.strokeRect(left, top, right - left, bottom - top);
    }
    if (pack.words) writeWords(pen, zoom);
    if (!array) { view.name.textContent = ""; return; }
    const [low, high] = range(array), ends = [view.ends[0], view.ends[1]];
    ends[0].textContent = shown(low); ends[1].textContent = `${array.cut ? "\u2265 " : ""}${shown(high)} ${array.unit}`;
    view.bar.width = 64; view.bar.height = 1;
    const line = view.bar.getContext("2d");
    for (let i = 0; i < 64; i++) {
      line.fillStyle = `rgb(${step(array.scale === "signed" ? colors.signed : colors.map, i / 63).join()})`;
      line.fillRect(i, 0, 1, 1);
    }
    view.name.textContent = array.title;
  };

  // ---- words of a lens
  const words = pack.words && {shape: pack.words.shape, strings: pack.words.strings};
  const wordAt = (layer, patch, k = 0) => {
    const at = (layer * words.shape[1] + patch) * words.shape[2] + k;
    return [words.strings[words.ids[at]], words.shares[at] / 255];
  };
  const writeWords = (pen, zoom) => {
    if (!words?.ids) return;
    const layer = Math.min(state.layer, words.shape[0] - 1);
    for (let i = 0; i < words.shape[1]; i++) {
      const [left, top, right, bottom] = pack.boxes.slice(4 * i, 4 * i + 4), [word, share] = wordAt(layer, i);
      const size = Math.min((bottom - top) * 0.42, 1.6 * (right - left) / Math.max(4, word.length));
      if (size * zoom < 8 || !word || share < 0.1) continue;
      pen.font = `${share > 0.5 ? 600 : 400} ${size}px system-ui,sans-serif`;
      pen.textAlign = "center"; pen.textBaseline = "middle";
      pen.lineWidth = size / 5; pen.strokeStyle = `rgba(0,0,0,${0.2 + 0.6 * share})`; pen.fillStyle = `rgba(255,255,255,${0.45 + 0.55 * share})`;
      pen.strokeText(word, (left + right) / 2, (top + bottom) / 2, right - left);
      pen.fillText(word, (left + right) / 2, (top + bottom) / 2, right - left);
    }
  };
  const reading = make("ol", {"aria-label": "words, layer by layer"});
  const readWords = patch => {
    reading.replaceChildren();
    if (!words?.ids || patch < 0) return;
    for (let layer = words.shape[0] - 1; layer >= 0; layer--) {
      const best = Array.from({length: words.shape[2]}, (_, k) => wordAt(layer, patch, k)).map(([word, share]) => `${word} ${share.toFixed(2)}`);
      reading.append(make("li", {}, make("b", {}, label("layer", layer)), ` ${best.join(", ")}`));
    }
  };

  // ---- controls
  const used = axis => pack.arrays.some(array => array.axes.includes(axis)) || (axis === "layer" && pack.words);
  const size = axis => Math.max(...pack.arrays.filter(array => array.axes.includes(axis)).map(array => array.shape[array.axes.indexOf(axis)]),
    axis === "layer" && words ? words.shape[0] : 0);
  const set = (axis, index, announce = true) => {
    state[axis] = Math.max(0, Math.min(index, axis === "array" ? index : size(axis) - 1));
    draw(announce ? axis : null);
  };
  /** Buttons of which one is pressed; one tab stop, arrows go on. */
  const choices = (names, get, put, title, role = "radio") => {
    const buttons = names.map((name, i) => make("button", {role, type: "button", onclick: () => put(i)}, name));
    const group = make("div", {class: role === "radio" ? "row" : "tokens", role: "radiogroup", "aria-label": title}, ...buttons);
    group.addEventListener("keydown", event => {
      const move = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (!move) return;
      event.preventDefault();
      put((get() + move + names.length) % names.length);
      buttons[get()].focus();
    });
    const update = () => buttons.forEach((button, i) => {
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", i === get());
      button.tabIndex = i === get() ? 0 : -1;
    });
    return {element: group, update};
  };
  const parts = [];
  const add = part => { parts.push(part); return part.element; };
  const panel = make("div", {class: "panel"});
  if (main.length > 1) panel.append(add(choices(main.map(name => arrays[name].title), () => main.indexOf(state.array),
    i => { state.array = main[i]; draw("array"); }, "what is shown")));
  const layered = used("layer") && size("layer") > 1 && (pack.picture || matrix);
  if (layered) {
    const slider = make("input", {type: "range", min: 0, max: size("layer") - 1, "aria-label": "layer", oninput: event => set("layer", +event.target.value)});
    const text = make("output");
    panel.append(add({element: make("div", {class: "row"}, make("label", {}, "layer"), slider, text), update: () => {
      slider.value = state.layer; text.textContent = label("layer", state.layer); slider.setAttribute("aria-valuetext", label("layer", state.layer)); }}));
  }
  if (used("run") && size("run") > 1) panel.append(add(choices(Array.from({length: size("run")}, (_, i) => label("run", i)), () => state.run, i => set("run", i), "run")));
  if (matrix) {
    const array = arrays[matrix], table = make("table", {class: "matrix", role: "grid", "aria-label": "heads by layer", tabindex: 0});
    const layers = array.shape[array.axes.indexOf("layer")], heads = array.length, cells = [];
    const headed = main.find(name => arrays[name].axes.includes("head"));
    const point = (layer, head) => {  // at one head: from now on its own map is shown
      state.layer = Math.max(0, Math.min(layers - 1, layer));
      if (headed) state.array = headed;
      set("head", head);
    };
    for (let layer = layers - 1; layer >= 0; layer--) {
      const row = make("tr", {}, make("th", {}, label("layer", layer)));
      cells[layer] = Array.from({length: heads}, (_, head) => {
        const cell = make("td", {role: "gridcell", onclick: () => point(layer, head)});
        row.append(cell);
        return cell;
      });
      table.append(row);
    }
    table.addEventListener("keydown", event => {
      const [up, right] = {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1]}[event.key] ?? [0, 0];
      if (!up && !right) return;
      event.preventDefault();
      point(state.layer + up, state.head + right);
    });
    panel.append(add({element: make("div", {class: "scroll"}, make("div", {class: "soft"}, array.title), table), update: async () => {
      for (let layer = 0; layer < layers; layer++) {
        const numbers = await slice(matrix, {...state, layer});
        numbers.forEach((number, head) => {
          cells[layer][head].style.background = `rgb(${color(array, number).join()})`;
          cells[layer][head].title = `${label("layer", layer)} ${label("head", head)}: ${shown(number)} ${array.unit}`;
          cells[layer][head].setAttribute("aria-selected", layer === state.layer && head === state.head);
        });
      }
    }}));
  }
  if (used("token")) panel.append(add(choices(Array.from({length: size("token")}, (_, i) => label("token", i)), () => state.token, i => set("token", i), "token", "token")));
  if (used("item")) {
    const options = Array.from({length: size("item")}, (_, i) => {
      const [name, ...rest] = label("item", i).split("\t");
      return make("div", {role: "option", onclick: () => set("item", i)}, name, make("span", {}, rest.join(" ")));
    });
    const list = make("div", {class: "items", role: "listbox", tabindex: 0, "aria-label": "list"}, ...options);
    list.addEventListener("keydown", event => {
      const move = {ArrowDown: 1, ArrowUp: -1}[event.key];
      if (!move) return;
      event.preventDefault();
      set("item", state.item + move);
      options[state.item].scrollIntoView({block: "nearest"});
    });
    panel.append(add({element: list, update: () => options.forEach((option, i) => option.setAttribute("aria-selected", i === state.item))}));
  }
  const code = make("code");
  const copy = make("div", {hidden: ""}, make("span", {class: "soft"}, "patches that you clicked: "), code);

  // ---- heat maps of what has no place
  const grid = make("div", {class: "scroll"});
  const drawGrid = async name => {
    const array = arrays[name], rows = array.axes.length > 1 && array.axes[array.axes.length - 2] === "layer" ? array.shape[array.axes.length - 2] : 1;
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

  // ---- all together
  const first = pack.picture ? stage() : null, second = pack.picture && controls.size ? stage() : null;
  const over = patch => {
    if (patch === state.patch) return;
    state.patch = patch;
    draw(null);
  };
  const choose = patch => {
    if (patch < 0) return;
    state.chosen.has(patch) ? state.chosen.delete(patch) : state.chosen.add(patch);
    code.textContent = `rows = [${[...state.chosen].sort((a, b) => a - b).join(", ")}]`;
    copy.hidden = !state.chosen.size;
    draw(null);
  };
  const seen = () => ({array: state.array ?? "", layer: state.layer, head: state.head, token: state.token, item: state.item, run: state.run,
    selected: [...state.chosen].sort((a, b) => a - b)});
  host.mmlens = {seen, set: values => {  // what a kernel asks for; see live.js
    const {selected, ...others} = values;
    Object.assign(state, others);
    if (selected) state.chosen = new Set(selected);
    draw(null);
  }};
  let turn = 0;
  const draw = async announced => {
    const mine = ++turn, array = arrays[state.array], drawn = array?.axes[array.axes.length - 1];
    const numbers = drawn === "patch" ? await slice(state.array) : null;
    const others = drawn === "patch" && array.control ? await slice(array.control) : null;
    if (mine !== turn) return;
    if (array?.each && numbers) for (const name of [state.array, array.control].filter(Boolean)) {
      [arrays[name].own, arrays[name].cut] = ownLimit([numbers, others].filter(Boolean));
    }
    if (first) paint(first, drawn === "patch" ? state.array : null, numbers);
    if (second) { second.figure.hidden = !others; if (others) paint(second, array.control, others); }
    if (drawn === "group") await drawGrid(state.array); else grid.replaceChildren();
    for (const part of parts) part.update();
    host.dispatchEvent(new CustomEvent("mmlens-change", {detail: seen()}));
    readWords(state.patch);
    if (state.patch >= 0 && numbers) {
      say(`patch ${label("patch", state.patch)}: ${shown(numbers[state.patch])} ${array.unit}` + (others ? `; control ${shown(others[state.patch])}` : ""));
    } else if (announced && announced !== "array") say(`${announced} ${label(announced, state[announced]).replace("\t", " ")}`);
  };
  const table = ({title, columns, rows}) => make("details", {}, make("summary", {}, title), make("div", {class: "scroll"}, make("table", {},
    make("thead", {}, make("tr", {}, ...columns.map(name => make("th", {scope: "col"}, name)))),
    make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map(cell => make("td", {class: typeof cell === "number" ? "n" : null}, cell === null ? "" : String(cell)))))))));
  const sheet = document.createElement("style");
  sheet.textContent = style;
  root.append(sheet, make("section", {"aria-label": pack.headline},
    make("p", {class: "head"}, pack.headline), pack.caption ? make("p", {class: "soft"}, pack.caption) : null,
    make("div", {class: "pictures"}, ...[first, second].filter(Boolean).map(view => view.figure), panel),
    grid, ...(pack.arrays.length || words ? [status] : []), reading, copy, ...pack.tables.map(table),
    pack.notes.length ? make("footer", {}, pack.notes.join(" ")) : null));
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
})
