/* What every room needs: answers from the server or from files, elements without HTML in strings, arrays. */
"use strict";

const H = { rooms: [], index: null };
H.fromFiles = document.documentElement.dataset.from === "files";

/* Answers. From files each is a script that calls H.give: pages opened from disk may not fetch. */
const waiting = new Map();
const answered = new Map();

H.give = (name, value) => {
  const here = waiting.get(name);
  waiting.delete(name);
  if (here) here.resolve(value);
};

function script(name) {
  return new Promise((resolve, reject) => {
    waiting.set(name, { resolve });
    const tag = document.createElement("script");
    tag.src = `data/${name}.js`;
    tag.onload = () => tag.remove();
    tag.onerror = () => reject(new Error("This is not in the exported sample."));
    document.head.append(tag);
  });
}

async function fetched(name, body) {
  let response;
  try {
    response = await fetch(`data/${name}`, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  } catch (error) {
    throw new Error("The server does not answer; is histogen view still running?", { cause: error });
  }
  const said = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
  if (!response.ok) throw new Error(said.error);
  return said;
}

/* Return the answer to a name; it is kept unless `fresh`. */
H.get = (name, { fresh = false } = {}) => {
  if (fresh || !answered.has(name)) {
    const answer = H.fromFiles ? script(name) : fetched(name);
    answered.set(name, answer);
    answer.catch(() => answered.delete(name));
    if (answered.size > 500) answered.delete(answered.keys().next().value);
  }
  return answered.get(name);
};

H.post = (name, body) => fetched(name, body);

H.unpack = (packed) => {
  const bytes = Uint8Array.from(atob(packed.base64), (sign) => sign.charCodeAt(0));
  return new globalThis[packed.type](bytes.buffer);
};

H.tileUrl = (number) => `image/tile/${number}.jpg`;
H.thumbUrl = (number) => (H.fromFiles ? H.tileUrl(number) : `image/thumb/${number}.jpg`);

/* Say why a picture did not come. */
H.whyNot = async (url) => {
  const said = H.fromFiles ? null : await fetch(url).then((answer) => answer.json()).catch(() => null);
  return said?.error ?? "A part of the slide cannot be shown.";
};

/* Elements: texts become text nodes, so that no name can be markup. */
H.el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
};

H.select = (label, options, value, onchange) => {
  const select = H.el(
    "select",
    { onchange: () => onchange(select.value) },
    options.map(([key, text]) => H.el("option", { value: key, selected: key === value }, text)),
  );
  return H.el("label", { class: "field" }, H.el("span", {}, label), select);
};

H.slider = (label, { min, max, step, value }, oninput) => {
  const out = H.el("output", {}, String(value));
  const input = H.el("input", { type: "range", min: `${min}`, max: `${max}`, step: `${step}`, value: `${value}` });
  input.addEventListener("input", () => {
    out.value = input.value;
    oninput(Number(input.value));
  });
  return H.el("label", { class: "field slider" }, H.el("span", {}, label), input, out); // the input first: it is what is labelled
};

H.say = (sentence) => {
  const said = document.getElementById("said");
  said.append(H.el("p", {}, sentence));
  while (said.children.length > 4) said.firstChild.remove();
};

H.number = (value) => {
  if (value === null || Number.isNaN(value)) return "none";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(4)));
};

/* Whether a tile is shown: of an exported page, whether it is in the sample. */
H.isShown = (number) => !H.index.sample || sampled().has(number);

let sampledNumbers = null;
const sampled = () => (sampledNumbers ??= new Set(H.unpack(H.index.sample.numbers)));

/* Any tile that is shown, a real one if there are: those that were made often have no embeddings. */
H.anyTile = () => {
  const real = H.index.stores.filter((store) => ["slide", "natural"].includes(store.kind));
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  if (H.index.sample) {
    const all = [...sampled()];
    return any(all.filter((number) => real.includes(H.storeOf(number)))) ?? any(all);
  }
  const stores = real.length ? real : H.index.stores;
  let place = Math.floor(Math.random() * stores.reduce((sum, store) => sum + store.tiles, 0));
  for (const store of stores) {
    if (place < store.tiles) return store.start + place;
    place -= store.tiles;
  }
  return 0;
};

H.storeOf = (number) => H.index.stores.findLast((store) => store.start <= number);

H.tileName = (number) => {
  const store = H.storeOf(number);
  return `${store.id}:${number - store.start}`;
};
