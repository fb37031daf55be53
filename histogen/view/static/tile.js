/* One tile: its picture, what its row says, and where to go from it; and sheets of many. */
"use strict";

H.picture = (number, { px = 0, caption = null, href = null, alt = null } = {}) => {
  const name = H.tileName(number);
  const image = H.el("img", {
    src: px > 96 || px === 0 ? H.tileUrl(number) : H.thumbUrl(number), alt: alt ?? `tile ${name}`, loading: "lazy",
    onerror: () => image.replaceWith(H.el("span", { class: "absent" }, "cannot be read")),
  });
  const inner = href ? H.el("a", { href }, image) : image;
  return H.el("figure", { class: "tile" }, inner, caption === null ? null : H.el("figcaption", {}, caption));
};

H.facts = (pairs) =>
  H.el("dl", { class: "facts" }, pairs.map(([key, value]) => H.el("div", {}, H.el("dt", {}, key), H.el("dd", {}, value))));

const asText = (value) => (Array.isArray(value) ? value.map(H.number).join(", ") : typeof value === "number" ? H.number(value) : value ?? "none");

H.tilePlace = (tile) => (tile.kind === "slide" && tile.values.x_l0 !== undefined ? `#slides/${tile.slide}/${tile.number}` : null);

/* Return what is known of a tile, with the ways on from it. */
H.tileCard = async (number) => {
  const tile = await H.get(`tile/${number}`);
  const ways = [
    [H.tilePlace(tile), "its place on the slide"],
    [H.index.encoders?.length ? `#neighbours/${number}` : null, "nearest tiles"],
    [H.index.synthetic ? `#synthetic/${number}` : null, tile.kind === "slide" ? "what was made from it" : "what it was made from"],
  ];
  const links = ways.filter(([href]) => href).map(([href, text]) => H.el("li", {}, H.el("a", { href }, text)));
  const values = Object.entries(tile.values).filter(([name]) => name !== "content_hash");
  return H.el("section", { class: "card", "aria-label": `tile ${tile.id}` },
    H.el("h2", {}, tile.id),
    tile.present ? H.picture(number) : H.el("p", { class: "bad" }, "This tile is absent, or its shard cannot be read."),
    H.el("ul", { class: "ways" }, links),
    H.facts([["kind", tile.kind], ["slide", tile.slide], ...values.map(([name, value]) => [name, asText(value)])]));
};

/* Return a sheet of tiles; `more` says how many are not shown. */
H.sheet = (numbers, { hrefOf = (number) => `#tile/${number}`, captionOf = () => null } = {}) =>
  H.el("div", { class: "sheet" }, numbers.map((number) => H.picture(number, { px: 96, href: hrefOf(number), caption: captionOf(number) })));

H.rooms.push({
  name: "tile",
  hidden: true,
  open: async (main, number) => main.replaceChildren(await H.tileCard(Number(number))),
});
