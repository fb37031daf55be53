/* The room of slides: deep zoom, the tile grid over it coloured by a column, a click opens the tile. */
"use strict";

const DRAWN_TILES = 250;
const state = { column: "", opacity: 0.45, outlines: "" };
const OUTLINES = { tissue: "#009e73", ink: "#e69f00" };

H.rooms.push({
  name: "slides",
  title: "Slides",
  available: () => H.index.slides.length > 0,
  open: async (main, id, number) => {
    const known = H.index.slides;
    const slide = known.find((one) => one.id === id) ?? known[0];
    const layers = await Promise.all(slide.stores.map(layer));
    const about = await H.get(`slide/${slide.id}`, { fresh: true });
    const panel = H.el("div", { class: "panel" });
    const legend = H.el("div", { class: "legends" });
    const drawings = H.el("div", { class: "legends" });
    let coloured = layers.map(() => null);
    let outlines = [];
    const zoom = new H.Zoom({
      ...about,
      label: `slide ${slide.id}: arrows move, plus and minus zoom, 0 shows all, Enter opens the tile in the middle`,
      squareUrl: (name) => `image/slide/${slide.id}/${name}.jpg`,
      overlay: (context, view) => {
        layers.forEach((one, k) => drawLayer(context, view, one, coloured[k], about.zooms === 0));
        outlines.forEach((one) => drawOutline(context, view, one));
      },
      onlost: async (name) => H.say(await H.whyNot(`image/slide/${slide.id}/${name}.jpg`)),
      onpick: (x, y) => pick(layers, x, y, (found) => openTile(panel, found)),
    });
    const recolour = async (name) => {
      state.column = name;
      const columns = await Promise.all(layers.map((one) => (name ? H.get(`column/${one.position}/${name}`) : null)));
      coloured = columns.map((column) => column && H.colouring(column));
      legend.replaceChildren(...coloured.filter(Boolean).map((one) => one.legend));
      zoom.draw();
    };
    const outline = async (name) => {
      state.outlines = name;
      try {
        const found = name ? await H.get(`outlines/${slide.id}`) : null;
        outlines = found ? outlinesOf(found, name) : [];
        const notes = (found?.notes ?? []).map((sentence) => H.el("p", { class: "note" }, sentence));
        const none = found && !outlines.length && !notes.length ? [H.el("p", { class: "quiet" }, `There is no outline of ${name} for this slide.`)] : [];
        const entries = outlines.map((one) => H.el("li", {}, H.el("span", { class: "swatch", style: `background:${one.colour}` }), one.name));
        drawings.replaceChildren(H.el("ul", { class: "legend" }, entries), ...none, ...notes);
      } catch (error) {
        outlines = [];
        drawings.replaceChildren(H.el("p", { class: "note" }, error.message));
      }
      zoom.draw();
    };
    const choice = H.select("Slide", known.map((one) => [one.id, one.id]), slide.id, (value) => { location.hash = `#slides/${value}`; });
    const columns = H.index.columns.map(({ name }) => [name, name]);
    const tools = H.el("div", { class: "tools" }, choice,
      layers.length ? [
        H.select("Colour tiles by", [["", "nothing"], ...columns], state.column, recolour),
        H.slider("Opacity", { min: 0, max: 1, step: 0.05, value: state.opacity }, (value) => { state.opacity = value; zoom.draw(); }),
      ] : [],
      H.index.outlines?.includes(slide.id)
        ? H.select("Outline", [["", "nothing"], ["tissue", "tissue"], ["annotations", "annotations"], ["both", "both"]], state.outlines, outline) : [],
      H.el("div", { class: "buttons" },
        button("+", "zoom in", () => zoom.zoomBy(0.6)), button("−", "zoom out", () => zoom.zoomBy(1 / 0.6)),
        button("all", "show the whole slide", () => zoom.fit())));
    main.replaceChildren(tools, ...said(about, layers), H.el("div", { class: "beside" }, H.el("div", { class: "stage" }, zoom.canvas, legend, drawings), panel));
    panel.replaceChildren(summary(slide, about, layers));
    await recolour(state.column);
    if (state.outlines && H.index.outlines?.includes(slide.id)) outline(state.outlines); // the slide first: this takes a second
    if (number !== undefined) goTo(zoom, layers, Number(number), panel);
    return () => zoom.close();
  },
});

const button = (text, label, onclick) => H.el("button", { type: "button", "aria-label": label, title: label, onclick }, text);

async function layer(position) {
  const places = await H.get(`places/${position}`, { fresh: true });
  const store = H.index.stores[position];
  return { position, start: store.start, size: places.size, x: places.x && H.unpack(places.x), y: places.y && H.unpack(places.y),
    present: H.unpack(places.present), images: new Map(), id: store.id };
}

function said(about, layers) {
  const found = [...about.flags];
  if (about.error) found.push(`${about.error}.${layers.length ? " Shown instead: the tiles that were cut from it." : ""}`);
  for (const one of layers) {
    const missing = one.present.reduce((sum, there) => sum + !there, 0);
    if (missing) found.push(`${H.number(missing)} of ${H.number(one.present.length)} tiles of ${one.id} are not there (yet), or cannot be read.`);
  }
  return found.map((sentence) => H.el("p", { class: "note" }, sentence));
}

function summary(slide, about, layers) {
  const mpp = about.mpp ? `${H.number(about.mpp[0])} × ${H.number(about.mpp[1])} µm per pixel` : "not known";
  return H.el("section", { class: "card" }, H.el("h2", {}, slide.id),
    H.facts([["extent", `${H.number(about.width)} × ${H.number(about.height)} px`], ["resolution", mpp],
      ["scanner", about.vendor || "not known"], ["tiles", H.number(layers.reduce((sum, one) => sum + one.present.length, 0))]]),
    H.el("p", { class: "quiet" }, "Drag or use the arrow keys to move, the wheel or + and − to zoom. A click, or Enter, opens a tile."));
}

function drawLayer(context, view, one, colouring, asPictures) {
  if (!one.x) return;
  const [width, height] = one.size.map((side) => side / view.scale);
  const seen = [];
  for (let k = 0; k < one.x.length; k += 1) {
    const [left, top] = [(one.x[k] - view.x) / view.scale, (one.y[k] - view.y) / view.scale];
    if (left < view.across && top < view.down && left + width > 0 && top + height > 0 && one.present[k]) seen.push([k, left, top]);
  }
  const pictures = asPictures && seen.length <= DRAWN_TILES;
  for (const [k, left, top] of seen) {
    const image = pictures && H.isShown(one.start + k) ? tileImage(one, k, view) : null;
    if (image?.naturalWidth) context.drawImage(image, left, top, width, height);
    if (colouring) {
      context.globalAlpha = state.opacity;
      context.fillStyle = colouring.colourOf(k);
      context.fillRect(left, top, width, height);
      context.globalAlpha = 1;
    }
    if (width > 5) {
      context.strokeStyle = "rgba(20, 20, 30, 0.55)";
      context.lineWidth = one.chosen === k ? 3 : 0.7;
      context.strokeRect(left, top, width, height);
    }
  }
}

function outlinesOf(found, which) {
  const drawn = which === "annotations" ? [] : ["tissue", "ink"].map((name) => ({ name, colour: OUTLINES[name], rings: found[name] }));
  const named = which === "tissue" ? [] : found.annotations.map((one, k) => ({ ...one, colour: H.categoryColour(k + 3) }));
  return [...drawn, ...named].filter((one) => one.rings.length).map((one) => ({ ...one, path: pathOf(one.rings) }));
}

function pathOf(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let k = 2; k < ring.length; k += 2) path.lineTo(ring[k], ring[k + 1]);
    path.closePath();
  }
  return path;
}

/* Twice, the first wider and white, so that it is seen on any stain. */
function drawOutline(context, view, one) {
  context.save();
  context.scale(1 / view.scale, 1 / view.scale);
  context.translate(-view.x, -view.y);
  for (const [colour, width] of [["rgba(255, 255, 255, 0.85)", 4], [one.colour, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * view.scale;
    context.stroke(one.path);
  }
  context.restore();
}

function tileImage(one, k, view) {
  if (!one.images.has(k)) {
    const image = new Image();
    image.onload = () => view.draw();
    image.src = H.tileUrl(one.start + k);
    one.images.set(k, image);
    if (one.images.size > 2 * DRAWN_TILES) one.images.delete(one.images.keys().next().value);
  }
  return one.images.get(k);
}

function pick(layers, x, y, found) {
  for (const one of layers) {
    for (let k = 0; one.x && k < one.x.length; k += 1) {
      if (x >= one.x[k] && x < one.x[k] + one.size[0] && y >= one.y[k] && y < one.y[k] + one.size[1]) {
        layers.forEach((other) => { other.chosen = other === one ? k : undefined; });
        found(one.start + k);
        return;
      }
    }
  }
}

async function openTile(panel, number) {
  try {
    panel.replaceChildren(await H.tileCard(number));
  } catch (error) {
    panel.replaceChildren(H.el("p", { class: "bad" }, error.message));
  }
}

function goTo(zoom, layers, number, panel) {
  const one = layers.find(({ start, present }) => number >= start && number < start + present.length);
  if (!one?.x) return;
  one.chosen = number - one.start;
  zoom.resized();
  const [width, height] = one.size;
  zoom.show(one.x[one.chosen] - 1.5 * width, one.y[one.chosen] - 1.5 * height, 4 * width, 4 * height);
  openTile(panel, number);
}
