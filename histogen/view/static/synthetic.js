/* The room of synthetic tiles: a source, what was made of it, and how near each comes to real tiles. */
"use strict";

H.rooms.push({
  name: "synthetic",
  title: "Synthetic",
  available: () => H.index.synthetic,
  open: (main, number) => (number === undefined ? sources(main) : family(main, Number(number))),
});

async function sources(main) {
  const found = await H.get("sources", { fresh: true });
  main.replaceChildren(
    H.el("h2", {}, "Tiles from which others were made"),
    H.el("p", { class: "quiet" }, `${H.number(found.sources.length)} of ${H.number(found.of)}, evenly chosen. Open one to see what was made from it.`),
    H.sheet(found.sources, { hrefOf: (number) => `#synthetic/${number}` }));
}

async function family(main, number) {
  const found = await H.get(`synthetic/${number}`, { fresh: true });
  const detail = H.el("div", { class: "panel", "aria-live": "polite" });
  const byKind = (kind) => found.made.filter((one) => one.kind === kind);
  const source = found.source === null
    ? H.el("p", { class: "note" }, "Its source is not among the stores that were given.")
    : H.el("div", { class: "row" }, H.picture(found.source, { href: `#tile/${found.source}`, caption: `source ${H.tileName(found.source)}` }));
  main.replaceChildren(H.el("p", {}, H.el("a", { href: "#synthetic" }, "other sources")), H.el("div", { class: "beside" }, H.el("div", {},
    H.el("h2", {}, "The source: a real tile"), source,
    group("Generative: sampled from the source's embedding alone", byKind("generative"), detail),
    group("Interpolated: sampled between source and partner; alpha is the weight of the source", byKind("interpolated"), detail)), detail));
  const first = found.made.find((one) => one.number === number) ?? found.made[0];
  if (first) await show(detail, first, found.source);
  else detail.replaceChildren(H.el("p", { class: "note" }, "Nothing was made from this tile, in the stores that were given."));
}

function group(title, made, detail) {
  if (!made.length) return null;
  const cards = made.map((one) => {
    const choose = H.el("button", { type: "button", class: "picture", "aria-label": `details of ${one.id}`, onclick: () => show(detail, one) }, H.picture(one.number, { alt: "" }));
    const partner = one.partner === null ? [] : [H.picture(one.partner, { href: `#synthetic/${one.partner}`, caption: `partner ${H.tileName(one.partner)}` })];
    const says = one.partner === null ? one.id : `${one.id}, alpha ${H.number(one.alpha)}`;
    return H.el("div", { class: "pair" }, H.el("div", {}, choose, H.el("p", { class: "quiet small" }, says)), partner);
  });
  return H.el("section", {}, H.el("h2", {}, title), H.el("div", { class: "row" }, cards));
}

async function show(detail, one) {
  const near = H.el("div", {}, H.el("p", { class: "quiet" }, "Comparing with real tiles …"));
  detail.replaceChildren(H.el("section", { class: "card" },
    H.el("h2", {}, one.id), H.picture(one.number),
    H.facts([["kind", one.kind], ["alpha", H.number(one.alpha)], ["seed", one.seed], ["encoder", one.encoder],
      ["cosine to what it was made from", one.consistency === null ? "not measured" : H.number(one.consistency)], ["sampler", JSON.stringify(one.sampler)]]),
    H.live(one), near, H.el("h3", {}, "To make it again"), H.el("pre", { tabindex: "0" }, one.command)));
  try {
    near.replaceChildren(...compared(one, await H.get(`copy/${one.number}`)));
  } catch (error) {
    near.replaceChildren(H.el("p", { class: "note" }, error.message));
  }
}

function compared(one, found) {
  const names = ["its source", "its partner"];
  const cosines = found.cosines.map((cosine, k) => [`cosine to ${names[k]}`, cosine === null ? "not embedded" : H.number(cosine)]);
  const nearest = found.nearest === null
    ? [H.el("p", {}, "It, or what it is compared with, is too plain to have a layout that could be copied.")]
    : [H.el("div", { class: "row" }, H.picture(found.nearest, { px: 96, href: `#tile/${found.nearest}`, caption: `nearest by layout: ${H.tileName(found.nearest)}` })),
      H.el("p", {}, `Its distance is ${H.number(found.ratio)} times that of the real tile to its own nearest; near 0 is a copy, near 1 as new as a real tile.`)];
  return [H.facts(cosines), H.el("h3", {}, "Copy check"),
    H.el("p", { class: "quiet small" }, `Coarse layouts under all flips and quarter turns, among the ${found.candidates} real tiles nearest to its source.`), ...nearest];
}
