/* From the address to a room: #room/what/… */
"use strict";

let leave = null;
let asked = 0;

async function openRoom() {
  const [name, ...rest] = decodeURI(location.hash.slice(1)).split("/");
  const open = H.rooms.filter((one) => one.hidden || one.available());
  const room = open.find((one) => one.name === name) ?? open.find((one) => !one.hidden);
  const main = document.getElementById("main");
  const mine = (asked += 1);
  leave?.();
  leave = null;
  for (const link of document.querySelectorAll("#rooms a")) {
    if (link.dataset.room === room?.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!room) {
    main.replaceChildren(H.el("p", {}, "There is nothing to look at."));
    return;
  }
  document.title = `${room.title ?? room.name} · histogen view`;
  const place = H.el("div", {}, H.el("p", { class: "quiet late" }, "Opening …")); // its own: what comes late is not seen elsewhere
  main.replaceChildren(place);
  try {
    const close = await room.open(place, ...rest);
    if (mine === asked) leave = close ?? null;
    else close?.();
  } catch (error) {
    place.replaceChildren(H.el("p", { class: "bad", role: "alert" }, error.message));
  }
}

async function begin() {
  try {
    H.index = await H.get("index");
  } catch (error) {
    document.getElementById("main").replaceChildren(H.el("p", { class: "bad", role: "alert" }, error.message));
    return;
  }
  document.getElementById("title").textContent = H.index.title;
  const rooms = H.rooms.filter((room) => !room.hidden && room.available());
  document.getElementById("rooms").replaceChildren(
    ...rooms.map((room) => H.el("li", {}, H.el("a", { href: `#${room.name}`, "data-room": room.name }, room.title))));
  H.index.problems.forEach(H.say);
  if (H.index.sample) {
    const [shown, of] = [H.unpack(H.index.sample.numbers).length, H.index.sample.of];
    if (shown < of) H.say(`A sample: ${H.number(shown)} of ${H.number(of)} tiles.`);
  }
  window.addEventListener("hashchange", openRoom);
  await openRoom();
}

begin();
