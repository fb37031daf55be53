/* The room of neighbours: a tile, and what is nearest to it under two encoders side by side. */
"use strict";

const chosen = { left: 0, right: 1 };

H.rooms.push({
  name: "neighbours",
  title: "Neighbours",
  available: () => H.index.encoders.length > 0,
  open: async (main, number) => {
    const asked = number === undefined ? H.anyTile() : Number(number);
    const found = await H.get(`neighbours/${asked}`);
    const lists = H.el("div", { class: "twice" });
    const draw = () => lists.replaceChildren(...columns(found));
    const options = H.index.encoders.map((name, k) => [String(k), name]);
    const tools = H.el("div", { class: "tools" }, find(asked),
      H.el("button", { type: "button", onclick: () => { location.hash = `#neighbours/${H.anyTile()}`; } }, "any other tile"),
      H.select("Left", options, String(chosen.left), (value) => { chosen.left = Number(value); draw(); }),
      options.length > 1 ? H.select("Right", options, String(chosen.right), (value) => { chosen.right = Number(value); draw(); }) : null);
    main.replaceChildren(tools, H.el("div", { class: "row" }, H.picture(asked, { href: placeOf(found.query), caption: describe(found.query) })), lists);
    draw();
  },
});

/* A tile by its name, STORE:ROW. */
function find(asked) {
  const input = H.el("input", { type: "text", value: H.tileName(asked), spellcheck: "false" });
  input.addEventListener("change", () => {
    const [id, row] = [input.value.slice(0, input.value.lastIndexOf(":")), Number(input.value.split(":").pop())];
    const store = H.index.stores.find((one) => one.id === id);
    if (store && Number.isInteger(row) && row >= 0 && row < store.tiles) location.hash = `#neighbours/${store.start + row}`;
    else H.say(`There is no tile '${input.value}'; write STORE:ROW, for example ${H.tileName(asked)}.`);
  });
  return H.el("label", { class: "field" }, H.el("span", {}, "Tile (store:row)"), input);
}

function columns(found) {
  const sides = [found.encoders[chosen.left], found.encoders[chosen.right]].filter(Boolean);
  const sets = sides.map((side) => new Set(side.found.map((one) => one.number)));
  const both = sides.length > 1 ? [...sets[0]].filter((number) => sets[1].has(number)).length : 0;
  const agree = sides.length > 1
    ? [H.el("p", { class: "wide" }, `${both} of ${sides[0].found.length} neighbours are the same under both encoders; these are framed and marked ✓.`)] : [];
  return [...agree, ...sides.map((side, k) => column(side, sides.length > 1 ? sets[1 - k] : new Set(), found.query))];
}

function column(side, other, query) {
  const same = side.found.filter((one) => one.label !== undefined && one.label === query.label).length;
  const says = [side.error, side.stores < side.of && `${side.stores} of ${side.of} stores have embeddings by this encoder.`,
    query.label && side.found.length && `${same} of ${side.found.length} have the same label.`].filter(Boolean);
  const cards = side.found.map((one) => {
    const card = H.picture(one.number, { href: `#neighbours/${one.number}`, caption: `${other.has(one.number) ? "✓ " : ""}cos ${one.cosine.toFixed(3)}; ${describe(one)}` });
    if (other.has(one.number)) card.classList.add("both");
    const place = placeOf(one);
    if (place) card.append(H.el("a", { class: "small", href: place }, one.kind === "slide" ? "place" : "origin"));
    return card;
  });
  return H.el("section", {}, H.el("h2", {}, side.encoder), says.map((sentence) => H.el("p", { class: "quiet" }, sentence)), H.el("div", { class: "sheet large" }, cards));
}

const describe = (one) => [one.slide, one.kind !== "slide" && one.kind, one.label].filter(Boolean).join(", ");

const placeOf = (one) => (one.kind === "slide" ? one.x_l0 !== undefined && `#slides/${one.slide}/${one.number}` : H.index.synthetic && `#synthetic/${one.number}`) || null;
