// The last hours of a pool, from the server's rings.

import { chart } from "./pictures.js";
import { bytes, duration, part, text, whole } from "./text.js";
import { change, onChange, view } from "./view.js";

const SPANS = { 3600: "hour", 21600: "6 hours", 86400: "24 hours" };
// Seconds that a chart shows at the least.
const LEAST = 300;
const rate = (value) => `${value < 10 ? value.toFixed(1) : whole.format(Math.round(value))}/s`;
const count = (value) => (Number.isInteger(value) ? whole.format(value) : value.toFixed(1));
const CHARTS = [
  ["rate", "calls ended", [["rate", "accent", "all"], ["bad", "bad", "not done"]], rate],
  ["run", "run time", [["run", "accent", "median"], ["run_p99", "warn", "p99"]], duration],
  ["wait", "queue wait", [["wait_p99", "warn", "p99"]], duration],
  ["queued", "waiting, at most", [["queued", "accent", "waiting"]], count],
  ["workers", "workers", [["workers", "soft", "up"], ["busy", "accent", "busy"]], count],
];

export function watchHistory(card, pool) {
  const box = part(card, "history-box");
  const select = part(card, "span");
  for (const [, title] of CHARTS) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const told = Object.assign(document.createElement("span"), { className: "told" });
    caption.append(Object.assign(document.createElement("b"), { textContent: title }), told);
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    figure.append(caption, canvas);
    part(card, "charts").append(figure);
  }
  select.value = view.span in SPANS ? view.span : "3600";
  // The address says that it is open, and over which time.
  box.open = view.span in SPANS;
  let timer;
  const look = async () => {
    clearTimeout(timer);
    if (!box.open || !card.isConnected) return;
    let seconds = 10;
    if (!document.hidden) seconds = await showHistory(card, pool, select.value);
    timer = setTimeout(look, seconds * 1000);
  };
  box.addEventListener("toggle", () => {
    change({ span: box.open ? select.value : "" });
    look();
  });
  select.addEventListener("change", () => {
    change({ span: select.value });
    look();
  });
  addEventListener("offload-theme", look);
  onChange(() => {
    if (view.span && select.value !== view.span) select.value = view.span;
  });
}

async function showHistory(card, pool, span) {
  const note = part(card, "history-note");
  let told;
  try {
    const response = await fetch(`history?${new URLSearchParams({ pool, span })}`);
    if (!response.ok) throw new Error((await response.text()).trim());
    told = await response.json();
  } catch (error) {
    text(note, error instanceof TypeError ? "The server does not answer." : error.message);
    return 10;
  }
  const { entries } = told;
  const now = Date.now() / 1000;
  // Where less is known than could be shown, it has all the room.
  const seconds = Math.min(Math.max(now - (entries.at[0] ?? now), LEAST), told.span);
  CHARTS.forEach(([, title, lines, show], index) => {
    const figure = part(card, "charts").children[index];
    const words = chart(figure.querySelector("canvas"), entries.at, lines.map(([name, colour, label]) => ({ values: entries[name] ?? [], colour, label })),
      { now, seconds, step: told.seconds, title: `${title}, last ${duration(seconds)}`, show });
    text(figure.querySelector(".told"), words);
  });
  text(note, entries.at.length ? `The last ${duration(seconds)}, one point every ${told.seconds} s. Kept for 24 hours, in ${bytes(told.bytes)} of memory.`
    : `Nothing yet: there is one point every ${told.seconds} s.`);
  return Math.min(told.seconds, 60);
}
