/* The room of runs: curves of a training while it grows, its previews, and what is done and what is left. */
"use strict";

const EVERY = 4000; // milliseconds between two looks at a training
const [WIDE, HIGH, LEFT, BELOW] = [420, 170, 66, 20];

H.rooms.push({
  name: "run",
  title: "Run",
  available: () => H.index.runs,
  open: async (main, number) => {
    const { runs } = await H.get("runs", { fresh: true });
    const asked = Number(number ?? 0);
    const body = H.el("div", {});
    const choose = (value) => { location.hash = `#run/${value}`; };
    main.replaceChildren(
      H.el("div", { class: "tools" }, H.select("Training", runs.map((run) => [String(run.number), `${run.name} (${run.command})`]), String(asked), choose)),
      table(runs), body);
    let seen = "";
    const look = async () => {
      const run = await H.get(`run/${asked}`, { fresh: true });
      const now = `${run.done} ${run.status} ${run.previews.length}`;
      if (now !== seen) body.replaceChildren(...shown(run, asked));
      seen = now;
    };
    await look();
    const timer = H.fromFiles ? null : setInterval(() => look().catch((error) => H.say(error.message)), EVERY);
    return () => clearInterval(timer);
  },
});

function table(runs) {
  const rows = runs.map((run) => H.el("tr", {},
    H.el("th", { scope: "row" }, H.el("a", { href: `#run/${run.number}` }, run.name)),
    H.el("td", {}, run.command), H.el("td", {}, run.status), H.el("td", {}, stepsOf(run))));
  const heads = ["run", "command", "status", "steps"].map((text) => H.el("th", { scope: "col" }, text));
  return H.el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "runs" },
    H.el("table", {}, H.el("thead", {}, H.el("tr", {}, heads)), H.el("tbody", {}, rows)));
}

const stepsOf = (run) => (run.planned ? `${H.number(run.done)} of ${H.number(run.planned)}` : H.number(run.done));

function shown(run, number) {
  const charts = run.curves.map((curve) => chart(run.steps, curve)).filter(Boolean);
  const previews = run.previews.map((name, k) => H.el("figure", {},
    H.el("img", { src: `image/preview/${number}/${k}.png`, alt: `preview ${name}`, loading: "lazy", class: "preview" }), H.el("figcaption", {}, name)));
  return [H.el("h2", {}, `${run.name}: ${run.status}, ${stepsOf(run)} steps`),
    run.error ? H.el("p", { class: "bad" }, run.error) : null,
    charts.length ? H.el("div", { class: "charts" }, charts) : H.el("p", {}, "No step was recorded yet."),
    ...(previews.length ? [H.el("h2", {}, "Previews: held-out tiles, their reconstructions, and samples on the same noise"), ...previews.reverse()] : [])].filter(Boolean);
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function chart(steps, curve) {
  const points = steps.map((step, k) => [step, curve.values[k]]).filter(([, value]) => value !== null);
  if (!points.length) return null;
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [points[0], points[points.length - 1]];
  const x = (step) => LEFT + ((step - first[0]) / (last[0] - first[0] || 1)) * (WIDE - LEFT - 8);
  const y = (value) => 8 + ((high - value) / (high - low || 1)) * (HIGH - BELOW - 16);
  const text = (at, content) => svg("text", at, content);
  const label = `${curve.name}: from ${H.number(first[1])} at step ${first[0]} to ${H.number(last[1])} at step ${last[0]}; lowest ${H.number(low)}, highest ${H.number(high)}`;
  const dots = points.length === 1 ? [svg("circle", { cx: x(first[0]), cy: y(first[1]), r: 4, class: "dot" })] : [];
  return H.el("figure", { class: "card" }, H.el("h3", {}, curve.name.replaceAll("_", " ")),
    svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label, class: "chart" },
      svg("line", { x1: LEFT, x2: WIDE - 8, y1: y(low), y2: y(low) }), svg("line", { x1: LEFT, x2: WIDE - 8, y1: y(high), y2: y(high) }),
      svg("polyline", { points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }), ...dots,
      text({ x: LEFT - 6, y: y(high) + 4, "text-anchor": "end" }, H.number(high)), text({ x: LEFT - 6, y: y(low) + 4, "text-anchor": "end" }, high === low ? "" : H.number(low)),
      text({ x: LEFT, y: HIGH - 4 }, H.number(first[0])), text({ x: WIDE - 8, y: HIGH - 4, "text-anchor": "end" }, `step ${H.number(last[0])}`)),
    H.el("figcaption", {}, curve.about));
}
