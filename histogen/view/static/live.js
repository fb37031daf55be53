/* A synthetic tile made anew: an alpha slider, another seed, progress, cancel. */
"use strict";

const LOOK = 250; // milliseconds between two looks at how far it is

/* Return the controls for a synthetic tile; nothing where no E-LDM can be asked. */
H.live = (one) => {
  if (!H.index.live || H.fromFiles) return null;
  const asked = { number: one.number, alpha: one.alpha ?? 1, seed: one.seed };
  const shown = H.el("div", { class: "row" });
  const said = H.el("p", { class: "small", role: "status" });
  const cancel = H.el("button", { type: "button", disabled: true }, "Cancel");
  let current = null;
  cancel.addEventListener("click", () => current !== null && H.post(`cancel/${current}`, {}));
  const make = async () => {
    try {
      const { job } = await H.post("live", asked);
      current = job;
      cancel.disabled = false;
      const ended = await follow(job, () => current === job, said);
      if (current !== job) return;
      cancel.disabled = true;
      if (ended.state === "done") {
        const text = `alpha ${H.number(asked.alpha)}, seed ${asked.seed}`;
        shown.prepend(H.el("figure", {}, H.el("img", { src: `image/live/${job}.jpg`, alt: `made anew: ${text}` }), H.el("figcaption", {}, text)));
      }
    } catch (error) {
      said.textContent = error.message;
      cancel.disabled = true;
    }
  };
  const again = () => {
    asked.seed = String(Math.floor(Math.random() * 2 ** 52));
    make();
  };
  const slider = one.partner === null ? null
    : H.slider("alpha, the weight of the source", { min: 0, max: 1, step: 0.01, value: asked.alpha }, (value) => { asked.alpha = value; });
  slider?.querySelector("input").addEventListener("change", make);
  return H.el("div", {}, H.el("h3", {}, "Made anew"), slider,
    H.el("div", { class: "buttons" }, H.el("button", { type: "button", onclick: make }, "Make it"),
      H.el("button", { type: "button", onclick: again }, "Again, other seed"), cancel), said, shown);
};

async function follow(job, wanted, said) {
  for (;;) {
    const about = await H.get(`live/${job}`, { fresh: true });
    if (!wanted()) return about;
    const own = { true: " The same bytes as in the store.", false: " Other bytes than in the store (other hardware or versions)." }[about.same] ?? "";
    said.textContent = {
      running: about.steps ? `Step ${about.done} of ${about.steps}, ${about.seconds} s` : `Loading the model, ${about.seconds} s`,
      done: `Made in ${about.seconds} s.${own}`, cancelled: "Cancelled.", failed: about.error,
    }[about.state];
    if (about.state !== "running") return about;
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
}
