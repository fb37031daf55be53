/* Colours that colour-blind people can tell apart, and their legend in words.
   Categories: Okabe and Ito's, then Paul Tol's muted ones; numbers: the ends and middle steps of cividis. */
"use strict";

const CATEGORIES = [
  "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#882255",
  "#332288", "#88ccee", "#44aa99", "#999933", "#ddcc77", "#cc6677", "#aa4499", "#117733",
];
const NONE = "#9a9a9a";
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const rgb = (parts) => `#${parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;

H.categoryColour = (code) => (code < 0 ? NONE : CATEGORIES[code % CATEGORIES.length]);

H.scaleColour = (share) => {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const [low, high] = [channels(CIVIDIS[Math.floor(at)]), channels(CIVIDIS[Math.ceil(at)])];
  return rgb(low.map((value, k) => value + (high[k] - value) * (at % 1)));
};

/* Return {colourOf(k), legend} for a column's values; the scale spans the 2nd to the 98th percentile. */
H.colouring = (column) => {
  const values = H.unpack(column.values);
  return column.names.length || values instanceof Int32Array ? categories(values, column.names) : scale(values);
};

function categories(values, names) {
  const counts = new Map();
  for (const code of values) counts.set(code, (counts.get(code) ?? 0) + 1);
  const shown = [...counts].sort((a, b) => b[1] - a[1]);
  const entries = shown.slice(0, 24).map(([code, count]) => swatch(H.categoryColour(code), names[code] ?? "none", count));
  const more = shown.length > 24 ? [H.el("li", {}, `and ${shown.length - 24} more`)] : [];
  const repeat = names.length > CATEGORIES.length ? [H.el("li", {}, "colours repeat: there are more names than colours")] : [];
  return {
    values,
    textOf: (k) => names[values[k]] ?? "none",
    colourOf: (k) => H.categoryColour(values[k]),
    legend: H.el("ul", { class: "legend" }, entries, more, repeat),
  };
}

function scale(values) {
  const finite = values.filter(Number.isFinite).sort();
  const [low, high] = [0.02, 0.98].map((share) => finite[Math.floor(share * (finite.length - 1))] ?? 0);
  const table = Array.from({ length: 65 }, (_, k) => H.scaleColour(k / 64));
  const step = (value) => Math.round(Math.min(Math.max((value - low) / (high - low || 1), 0), 1) * 64);
  const none = values.length - finite.length;
  const bar = H.el("span", { class: "scale", style: `background: linear-gradient(90deg, ${CIVIDIS.join(",")})` });
  return {
    values,
    textOf: (k) => H.number(values[k]),
    colourOf: (k) => (Number.isFinite(values[k]) ? table[step(values[k])] : NONE),
    legend: H.el("ul", { class: "legend" },
      H.el("li", {}, H.number(low), " ", bar, " ", H.number(high)), none ? [swatch(NONE, "none", none)] : []),
  };
}

function swatch(colour, name, count) {
  return H.el("li", {}, H.el("span", { class: "swatch", style: `background:${colour}` }), `${name} (${H.number(count)})`);
}
