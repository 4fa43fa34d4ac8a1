// The dashboard: listens to the server's samples and shows them.

import { connection } from "./asking.js";
import { showPools } from "./pools.js";
import { cells, duration, find, keyed, memory, newRow, part, share, text, whole } from "./text.js";
import { change, onChange, view } from "./view.js";

// Milliseconds without a sample after which what is shown counts as old: at the least, and in
// intervals between two of them.
const PATIENCE = 3000;
const INTERVALS = 2.5;
const RETRY = 2000;
let source;
let latest;
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
    latest = sample;
    show(sample);
  });
  source.addEventListener("error", () => {
    // By itself it asks again only after a connection that was lost, not after a refusal.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || listen(), RETRY);
  });
}

function show(sample) {
  document.body.classList.toggle("actions", sample.actions);
  const server = find("server");
  text(part(server, "pid"), `process ${sample.server.pid}`);
  text(part(server, "cpu"), share(sample.server.cpu));
  text(part(server, "memory"), memory(sample.server));
  find("none").hidden = sample.pools.length > 0;
  showLoop(sample.loop);
  showPools(sample);
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
    () => newRow(["function", "", "", "number", "number", "number", "wide"],
      ["Where", "Route", "Cause", "times", "longest", "total", "What to do"]),
    (row, place) => cells(row, [place.file ? `${place.function}\n${place.file}:${place.line}` : "–", place.route || "–",
      `${place.cause}: ${place.what}`, whole.format(place.count), duration(place.longest),
      duration(place.total), place.advice]));
}

// --- search ---

function startSearch() {
  const { q, kind } = find("filter").elements;
  q.value = view.q;
  kind.value = view.kind;
  q.addEventListener("input", () => change({ q: q.value }));
  kind.addEventListener("change", () => change({ kind: kind.value }));
  find("filter").addEventListener("submit", (event) => event.preventDefault());
  // At once, and not with the next sample.
  onChange(() => latest && show(latest));
  addEventListener("offload-theme", () => latest && show(latest));
}

// --- the start ---

document.addEventListener("visibilitychange", () => {
  // Nobody looks: the server shall have no work from it.
  if (document.hidden) source?.close();
  else listen();
});
startSearch();
setInterval(() => {
  if (!document.hidden && heardAt && Date.now() - heardAt > patience) {
    connection("lost", "Not connected; trying again");
  }
}, 1000);
listen();
