/* The room of the map: embeddings in two dimensions, coloured by any column; a lasso makes a sheet, counts, a column. */
"use strict";

const SHEET = 200;
const picked = { encoder: null, method: "pca", column: "label" };

H.rooms.push({
  name: "map",
  title: "Map",
  available: () => H.index.encoders.length > 0,
  open: async (main) => {
    picked.encoder ??= H.index.encoders[0];
    const room = new Map2D(main);
    await room.open();
    return () => room.close();
  },
});

class Map2D {
  constructor(main) {
    this.main = main;
    this.panel = H.el("div", { class: "panel" });
    this.legend = H.el("div", {});
    this.progress = H.el("p", { class: "quiet", "aria-live": "polite" });
    this.stage = H.el("div", { class: "stage" });
    this.float = H.el("div", { class: "float", hidden: true });
  }

  close() {
    this.closed = true;
    this.scatter?.close();
  }

  async open() {
    const names = H.index.columns.map(({ name }) => name);
    if (!names.includes(picked.column)) picked.column = "kind";
    const again = (key) => (value) => { picked[key] = value; this.load(); };
    this.lasso = H.el("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Lasso");
    this.main.replaceChildren(
      H.el("div", { class: "tools" },
        H.select("Encoder", H.index.encoders.map((name) => [name, name]), picked.encoder, again("encoder")),
        H.select("Map by", [["pca", "PCA (at once)"], ["umap", "UMAP (minutes)"]], picked.method, again("method")),
        H.select("Colour by", names.map((name) => [name, name]), picked.column, (name) => { picked.column = name; this.recolour(); }),
        H.el("div", { class: "buttons" }, this.lasso,
          H.el("button", { type: "button", onclick: () => this.select(this.visible()) }, "Select what is shown"),
          H.el("button", { type: "button", onclick: () => this.scatter?.fit() }, "Show all"))),
      this.progress, H.el("div", { class: "beside" }, H.el("div", {}, this.stage, this.legend), this.panel));
    this.panel.replaceChildren(H.el("section", { class: "card" }, H.el("p", { class: "quiet" },
      "Each point is a tile. Drag or use the arrow keys to move, the wheel or + and − to zoom; a click, or Enter, opens a tile. With Lasso, or Shift, draw around tiles to see them together.")));
    await this.load();
  }

  toggle() {
    const on = this.lasso.getAttribute("aria-pressed") !== "true";
    this.lasso.setAttribute("aria-pressed", String(on));
    if (this.scatter) this.scatter.lassoing = on;
  }

  async load() {
    const mine = (this.asked = (this.asked ?? 0) + 1);
    this.progress.textContent = "Finding the main directions …";
    const found = picked.method === "pca" ? await H.get(`map/${picked.encoder}/pca`) : await this.umap(mine);
    if (this.closed || mine !== this.asked || !found?.x) return;
    this.numbers = H.unpack(found.numbers);
    const shares = found.explained?.map((share) => `${Math.round(100 * share)} %`).join(" and ");
    this.progress.textContent = [
      `${H.number(this.numbers.length)} tiles${found.of > this.numbers.length ? `, drawn from ${H.number(found.of)}` : ""}.`,
      shares && `The two directions hold ${shares} of the variance.`, found.error].filter(Boolean).join(" ");
    this.scatter?.close();
    this.scatter = new H.Scatter({ x: H.unpack(found.x), y: H.unpack(found.y),
      label: "map of tiles: arrows move, plus and minus zoom, 0 shows all, Enter opens the tile nearest to the middle",
      onhover: (k, at) => this.hover(k, at), onpick: (k) => this.show(this.numbers[k]), onlasso: (points) => this.select(points) });
    this.scatter.lassoing = this.lasso.getAttribute("aria-pressed") === "true";
    this.stage.replaceChildren(this.scatter.element, this.float);
    await this.recolour();
  }

  /* UMAP's places; begins it where need be, and tells its progress until it is done. */
  async umap(mine) {
    const name = `map/${picked.encoder}/umap`;
    let found = await H.get(name, { fresh: true });
    if (found.state !== "done" && found.state !== "running" && !H.fromFiles) found = await H.post(`umap/${picked.encoder}`, {});
    while (found.state === "running" && !this.closed && mine === this.asked) {
      this.progress.textContent = found.epochs ? `UMAP: ${found.done} of ${found.epochs} rounds.` : "UMAP: looking for neighbours …";
      await new Promise((resolve) => setTimeout(resolve, 800));
      found = await H.get(name, { fresh: true });
    }
    if (found.state === "failed") this.progress.textContent = found.error;
    if (found.state === "absent") this.progress.textContent = "UMAP was not made before this page was exported.";
    return found;
  }

  async recolour() {
    if (!this.scatter) return;
    const column = await H.get(`map/${picked.encoder}/column/${picked.method}/${picked.column}`);
    this.colouring = H.colouring(column);
    this.scatter.recolour(this.colouring.colourOf);
    this.legend.replaceChildren(this.colouring.legend);
  }

  hover(k, at) {
    this.float.hidden = k === null;
    if (k === null) return;
    this.float.replaceChildren(H.picture(this.numbers[k], { px: 96, caption: `${H.tileName(this.numbers[k])}, ${this.colouring?.textOf(k) ?? ""}` }));
    this.float.style.left = `${Math.min(at[0] + 14, this.scatter.across - 110)}px`;
    this.float.style.top = `${Math.max(Math.min(at[1] + 14, this.scatter.down - 140), 0)}px`;
  }

  async show(number) {
    this.panel.replaceChildren(await H.tileCard(number));
  }

  visible() {
    const { across, down } = this.scatter;
    return this.scatter.inside([[0, 0], [across, 0], [across, down], [0, down]]);
  }

  select(points) {
    const numbers = points.map((k) => this.numbers[k]);
    const shown = numbers.filter((_, k) => numbers.length <= SHEET || k % Math.ceil(numbers.length / SHEET) === 0);
    this.panel.replaceChildren(H.el("section", { class: "card", "aria-live": "polite" },
      H.el("h2", {}, `${H.number(numbers.length)} tiles selected`),
      numbers.length ? [this.counts(points), this.keep(numbers),
        H.el("p", { class: "quiet small" }, shown.length < numbers.length ? `${shown.length} of them, evenly chosen:` : "All of them:"),
        H.sheet(shown)] : H.el("p", {}, "None lies there.")));
  }

  counts(points) {
    const counts = new Map();
    for (const k of points) counts.set(this.colouring.textOf(k), (counts.get(this.colouring.textOf(k)) ?? 0) + 1);
    if (counts.size > 40) return H.el("p", { class: "quiet" }, `${counts.size} different values of ${picked.column}`);
    const rows = [...counts].sort((a, b) => b[1] - a[1]);
    return H.facts(rows.map(([name, count]) => [name, `${H.number(count)} (${Math.round((100 * count) / points.length)} %)`]));
  }

  /* Ways to keep a selection: a column of the stores for `where`, or a list. */
  keep(numbers) {
    const name = H.el("input", { type: "text", value: "selection", "aria-label": "name of the column", spellcheck: "false" });
    const said = H.el("p", { class: "small", role: "status" });
    const save = async () => {
      try {
        const { where } = await H.post("select", { name: name.value, numbers: Array.from(numbers) });
        said.replaceChildren("Kept. Any command takes it with: ", H.el("code", {}, where));
        H.index = await H.get("index", { fresh: true });
      } catch (error) {
        said.replaceChildren(H.el("span", { class: "bad" }, error.message));
      }
    };
    const list = () => `tile\n${numbers.map(H.tileName).join("\n")}\n`;
    const download = H.el("a", { download: "tiles.csv", href: URL.createObjectURL(new Blob([list()], { type: "text/csv" })) }, "Take the list (CSV)");
    const column = H.fromFiles ? [] : [name, H.el("button", { type: "button", onclick: save }, "Keep as a column")];
    return H.el("div", {}, H.el("div", { class: "buttons" }, column), H.el("p", {}, download), said);
  }
}
