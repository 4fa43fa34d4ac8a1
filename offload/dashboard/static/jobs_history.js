// The last hours of a store, from the server's rings: jobs per minute by what became of them, and how
// many there were in each state.

import { ask, noteInAddress, options } from "./jobs.js";
import { chart } from "./pictures.js";
import { bytes, duration, find, text, whole } from "./text.js";

const perMinute = (value) => `${value < 10 && !Number.isInteger(value) ? value.toFixed(1) : whole.format(Math.round(value))}/min`;
const count = (value) => whole.format(value);
// Title, lines, and how a value is shown; those per minute are told apart from the others, as the store
// knows them since before anybody looked.
const CHARTS = [
  ["jobs per minute", [["completed", "good", "completed"], ["failed", "bad", "failed"], ["cancelled", "warn", "cancelled"]], perMinute, "ended"],
  ["waiting", [["waiting", "accent", "waiting"], ["delayed", "soft", "delayed"]], count, "entries"],
  ["active", [["active", "accent", "active"]], count, "entries"],
  ["failed, kept", [["failed", "bad", "failed"]], count, "entries"],
  ["completed, kept", [["completed", "good", "completed"]], count, "entries"],
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
  const now = Date.now() / 1000;
  // Where less is known than could be shown, it has all the room.
  const begin = Math.min(told.entries.at[0] ?? now, told.ended.at[0] ?? now);
  const seconds = Math.min(Math.max(now - begin, LEAST), told.span);
  CHARTS.forEach(([title, lines, show, which], index) => {
    const entries = told[which];
    const figure = find("charts").children[index];
    text(figure.querySelector(".told"), chart(figure.querySelector("canvas"), entries.at,
      lines.map(([name, colour, label]) => ({ values: entries[name] ?? [], colour, label })),
      { now, seconds, step: told.seconds, title: `${title}, last ${duration(seconds)}`, show }));
  });
  text(find("history-note"), told.ended.at.length
    ? `The last ${duration(seconds)}, one point every ${told.seconds} s. Jobs per minute are known for the last 24 hours; the other charts begin when this page was first opened. All of them take ${bytes(told.bytes)} of memory.`
    : `Nothing yet: there is one point every ${told.seconds} s.`);
  return Math.min(told.seconds, 60);
}
