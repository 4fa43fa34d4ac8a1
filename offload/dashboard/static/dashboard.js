// The dashboard: listens to the server's samples, shows them, and sends what an operator asks for.

import { showPools } from "./pools.js";
import { cells, duration, find, keyed, memory, newRow, part, share, text, whole } from "./text.js";

// Milliseconds without a sample after which what is shown counts as old: at the least, and in
// intervals between two of them.
const PATIENCE = 3000;
const INTERVALS = 2.5;
const RETRY = 2000;
const SURE = {
  cancel: ["Cancel the task of worker {pid}? Its caller gets an error; what it has done so far stays done.", "Cancel the task"],
  drain: ["Drain pool {pool}? It refuses every new call until it is opened again.", "Drain the pool"],
};

let source;
let heardAt = 0;
let patience = PATIENCE;

function listen() {
  source?.close();
  source = new EventSource("events");
  source.addEventListener("message", (event) => {
    heardAt = Date.now();
    connection("live", "Live");
    const sample = JSON.parse(event.data);
    patience = Math.max(PATIENCE, INTERVALS * 1000 * sample.interval);
    show(sample);
  });
  source.addEventListener("error", () => {
    // By itself it asks again only after a connection that was lost, not after a refusal.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || listen(), RETRY);
  });
}

function connection(state, words) {
  find("connection").dataset.state = state;
  text(find("connection"), words);
  document.body.classList.toggle("stale", state === "lost");
}

function show(sample) {
  document.body.classList.toggle("actions", sample.actions);
  const server = find("server");
  text(part(server, "pid"), `process ${sample.server.pid}`);
  text(part(server, "cpu"), share(sample.server.cpu));
  text(part(server, "memory"), memory(sample.server));
  find("none").hidden = sample.pools.length > 0;
  showLoop(sample.loop);
  showPools(sample, act);
}

function showLoop(loop) {
  find("loop").hidden = !loop;
  if (!loop) return;
  text(find("loop-state"), loop.is_watching ? `watched from ${duration(loop.threshold)}` : "no longer watched");
  const values = { now: loop.now, p50: loop.lag.p50, p99: loop.lag.p99, max: loop.lag.max };
  for (const [name, seconds] of Object.entries(values)) text(part(find("loop"), name), duration(seconds));
  text(part(find("loop"), "blocks"), whole.format(loop.blocks));
  part(find("loop"), "blocks").dataset.kind = loop.blocks ? "bad" : "";
  find("places-box").hidden = loop.places.length === 0;
  keyed(find("places"), loop.places, (place) => [place.file, place.line, place.function, place.route, place.cause].join("\n"),
    () => newRow(["function", "", "", "number", "number", "number", "wide"]),
    (row, place) => cells(row, [place.file ? `${place.function}\n${place.file}:${place.line}` : "–", place.route || "–",
      `${place.cause}: ${place.what}`, whole.format(place.count), duration(place.longest),
      duration(place.total), place.advice]));
}

// --- actions ---

async function act(action, pool, pid) {
  if (!(await isSure(action, pool, pid))) return;
  const question = new URLSearchParams(pid === undefined ? { pool } : { pool, pid });
  try {
    const response = await fetch(`actions/${action}?${question}`,
      { method: "POST", headers: { "X-Offload-Action": "1" } });
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    text(find("said"), isJson ? (await response.json()).text : await response.text());
  } catch {
    text(find("said"), "The server does not answer; whether it was done is not known.");
  }
}

function isSure(action, pool, pid) {
  if (!(action in SURE)) return Promise.resolve(true);
  const [question, label] = SURE[action];
  const dialog = find("sure");
  text(find("sure-text"), question.replace("{pid}", pid).replace("{pool}", pool));
  text(find("sure-yes"), label);
  dialog.returnValue = "";
  dialog.showModal();
  // On the harmless one: a hasty Enter changes nothing.
  find("sure-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

find("sure-no").addEventListener("click", () => find("sure").close(""));
find("sure-yes").addEventListener("click", () => find("sure").close("yes"));

// --- the start ---

document.addEventListener("visibilitychange", () => {
  // Nobody looks: the server shall have no work from it.
  if (document.hidden) source?.close();
  else listen();
});
setInterval(() => {
  if (!document.hidden && heardAt && Date.now() - heardAt > patience) {
    connection("lost", "Not connected; trying again");
  }
}, 1000);
listen();
