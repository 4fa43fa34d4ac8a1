// How many jobs there were in each state over the last hours, from the server's rings.

import { ask, noteInAddress, options } from "./jobs.js";
import { chart } from "./pictures.js";
import { bytes, duration, find, text, whole } from "./text.js";

const CHARTS = [
  ["waiting", [["waiting", "accent", "waiting"], ["delayed", "soft", "delayed"]]],
  ["active", [["active", "accent", "active"]]],
  ["failed", [["failed", "bad", "failed"]]],
  ["completed", [["completed", "good", "completed"]]],
];
// Seconds that a chart shows at the least.
const LEAST = 300;
let timer;

export function startHistory(given) {
  for (const [title] of CHARTS) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.append(Object.assign(document.createElement("b"), { textContent: title }),
      Object.assign(document.createElement("span"), { className: "told" }));
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    figure.append(caption, canvas);
    find("charts").append(figure);
  }
  const spans = [...find("span").options].map((option) => option.value);
  if (spans.includes(given.get("span"))) {
    find("span").value = given.get("span");
    find("history-box").open = true;
  }
  find("history-box").addEventListener("toggle", () => {
    noteInAddress();
    look();
  });
  find("span").addEventListener("change", () => {
    noteInAddress();
    look();
  });
  find("history-queue").addEventListener("change", look);
  addEventListener("offload-theme", look);
}

async function look() {
  clearTimeout(timer);
  if (!find("history-box").open) return;
  let seconds = 10;
  if (!document.hidden) seconds = await show();
  timer = setTimeout(look, seconds * 1000);
}

async function show() {
  let told;
  try {
    told = await ask("history", { span: find("span").value, queue: find("history-queue").value });
  } catch (error) {
    text(find("history-note"), error instanceof TypeError ? "The server does not answer." : error.message);
    return 10;
  }
  options(find("history-queue"), ["", ...told.queues], "all");
  const { entries } = told;
  const now = Date.now() / 1000;
  // Where less is known than could be shown, it has all the room.
  const seconds = Math.min(Math.max(now - (entries.at[0] ?? now), LEAST), told.span);
  CHARTS.forEach(([title, lines], index) => {
    const figure = find("charts").children[index];
    text(figure.querySelector(".told"), chart(figure.querySelector("canvas"), entries.at,
      lines.map(([name, colour, label]) => ({ values: entries[name] ?? [], colour, label })),
      { now, seconds, step: told.seconds, title: `Jobs ${title}, last ${duration(seconds)}`, show: (value) => whole.format(value) }));
  });
  text(find("history-note"), entries.at.length
    ? `The last ${duration(seconds)}, a point each ${told.seconds} s, in ${bytes(told.bytes)} of memory. Kept from the first look at this page on, for 24 hours.`
    : "Nothing yet. It is kept from the first look at this page on.");
  return Math.min(told.seconds, 60);
}
