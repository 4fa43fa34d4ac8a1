// The demo page: probes /fast, fires heavy requests, shows the pool.

import { Chart, INTERVAL } from "./chart.js";
import { runJobs, watchProgram } from "./jobs.js";
import { compare, playByItself } from "./round.js";
import { duration, find, reason, sleep, text, whole } from "./text.js";
import { sample, send } from "./upload.js";

const POLL = 500;
// Offloaded work gives way to everything else on the machine, if need be for ever.
const LONGEST_BY_ITSELF = 20_000;
const NAMES = { inline: "Inline", thread: "In a thread", offloaded: "Offloaded", job: "As a job" };
// More jobs at once than one wants to wait for: a store takes any number.
const MOST_JOBS = 64;
const settings = document.documentElement.dataset;
// By which the server tells whether this page is its only visitor.
const HEADERS = { "X-Demo-Page": Math.random().toString(36).slice(2) };
const chart = new Chart(find("chart"));
const quantile = (sorted, fraction) =>
  sorted.length ? sorted[Math.min(Math.floor(sorted.length * fraction), sorted.length - 1)] : undefined;
const visible = () =>
  new Promise((resolve) => {
    if (!document.hidden) return resolve();
    document.addEventListener("visibilitychange", resolve, { once: true });
  });

// --- /fast, several times a second ---

// A browser opens six connections to a host, so that many requests at once would wait in the
// browser and not in the server: one question is under way at a time, and those that it kept from
// being sent count from when they should have been (else a freeze would be one bad value in a row
// of good ones).
async function probe() {
  let next = performance.now();
  for (;;) {
    if (document.hidden) {
      await visible();
      next = performance.now();
    }
    await sleep(next - performance.now());
    chart.pendingSince = next;
    try {
      const response = await fetch("fast", { cache: "no-store", headers: HEADERS });
      await response.text();
      online(response.ok);
    } catch {
      online(false);
      chart.pendingSince = undefined;
      await sleep(1000);
      next = performance.now();
      continue;
    }
    const done = performance.now();
    chart.pendingSince = undefined;
    do {
      chart.add(next, done - next);
      next += INTERVAL;
    } while (next < done);
  }
}

const isOffline = () => document.body.classList.contains("offline");

function online(is) {
  document.body.classList.toggle("offline", !is);
  if (!is) text("now", "no answer");
  // Whatever the page shows by then is of the past; a screen reader is told as well.
  text("gone", is ? "" : "The server does not answer: everything below is from before. Trying again.");
  showButtons();
}

function showChart() {
  chart.draw();
  const recent = chart.since(performance.now() - 10_000);
  const waited = chart.pendingSince === undefined ? 0 : performance.now() - chart.pendingSince;
  const last = chart.points.at(-1);
  if (last && !isOffline()) {
    text("now", duration(Math.max(last.took, waited)));
  }
  text("median", duration(quantile(recent, 0.5)));
  text("worst", duration(Math.max(recent.at(-1) ?? Number.NaN, waited)));
  if (running && running.span.to === undefined) showRun(running, running.span);
}

function describeChart() {
  const [now, median, worst] = ["now", "median", "worst"].map((id) => find(id).textContent);
  find("chart").setAttribute("aria-label",
    `Round trip of /fast over the last 30 seconds, logarithmic. Now ${now}; ` +
    `of the last 10 seconds, median ${median}, worst ${worst}.`);
}

// --- heavy requests ---

let running;

// Runs heavy requests in one way; returns the run, or nothing if it was not done.
async function fire(way, { count: asked = Number(find("count").value), n = find("n").value, byItself = false } = {}) {
  if (running || isOffline()) return undefined;
  const count = way === "job" ? Math.min(asked, MOST_JOBS) : asked;
  const run = { way, count, byItself, ran: [], done: 0, refused: 0, failed: 0, stop: new AbortController() };
  running = run;
  const span = { way, from: performance.now(), to: undefined };
  run.span = span;
  chart.spans.push(span);
  if (byItself) {
    setTimeout(() => {
      run.isCut = running === run;
      run.stop.abort();
    }, LONGEST_BY_ITSELF);
  }
  showButtons();
  text("status", `${NAMES[way]}: ${requests(count)} under way.`);
  let stopped = false;
  try {
    if (way === "job") {
      await runJobs(run, n);
      stopped = run.stop.signal.aborted;
    } else {
      const question = new URLSearchParams({ way, count, n });
      const response = await fetch(`burst?${question}`, { method: "POST", headers: HEADERS, signal: run.stop.signal });
      if (!response.ok) throw new Error((await response.json()).detail);
      for await (const line of lines(response)) take(run, line);
    }
  } catch (error) {
    stopped = run.stop.signal.aborted;
    if (!stopped) run.broken = reason(error);
  }
  span.to = performance.now();
  // The answers to what was asked until then.
  await sleep(INTERVAL);
  while (chart.pendingSince !== undefined && chart.pendingSince < span.to) await sleep(20);
  if (run.broken !== undefined) {
    // No answer, or a refusal: that is no result.
    clearRun(run);
    text("status", `${NAMES[way]}: not done, ${run.broken}.`);
  } else {
    showRun(run, span);
    tellRun(run, span);
  }
  if (stopped) await showStop(run, span.to);
  running = undefined;
  showButtons();
  return (stopped && !run.isCut) || run.broken !== undefined ? undefined : run;
}

const requests = (count) => (count === 1 ? "1 request" : `${whole.format(count)} requests`);

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts.map((part) => JSON.parse(part));
  }
}

function take(run, line) {
  if (line.error === undefined) {
    run.done += 1;
    run.ran.push(line.seconds * 1000);
  } else if (line.refused) {
    run.refused += 1;
  } else {
    run.failed += 1;
    run.error = line.error;
  }
}

function showRun(run, span) {
  const meanwhile = chart.since(span.from);
  const row = document.querySelector(`#results tr[data-way="${run.way}"]`);
  const median = quantile(meanwhile, 0.5);
  const worst = meanwhile.at(-1);
  run.worst = worst;
  const ran = quantile(run.ran.sort((a, b) => a - b), 0.5);
  const took = (span.to ?? performance.now()) - span.from;
  const cells = [
    duration(median),
    duration(worst),
    duration(ran),
    duration(took),
    `${whole.format(run.done)} of ${whole.format(run.count)}`,
    whole.format(run.refused),
  ];
  cells.forEach((cell, index) => text(row.cells[index + 1], cell));
  // In milliseconds, for programs that look at the page.
  Object.assign(row.dataset, { ran: ran ?? "", median: median ?? "", worst: worst ?? "", done: run.done });
}

function tellRun(run, span) {
  const meanwhile = chart.since(span.from);
  if (run.stop.signal.aborted || (run.done + run.refused === 0 && !run.failed)) return;
  const refused = run.refused ? ` ${requests(run.refused)} refused, since the queue was full.` : "";
  const failed = run.failed ? ` ${requests(run.failed)} failed: ${run.error}.` : "";
  text("status", `${NAMES[run.way]}: ${requests(run.done)} done in ${duration(span.to - span.from)}.` +
    `${refused}${failed} /fast meanwhile: median ${duration(quantile(meanwhile, 0.5))}, ` +
    `worst ${duration(meanwhile.at(-1))}.`);
}

function clearRun(run) {
  const row = document.querySelector(`#results tr[data-way="${run.way}"]`);
  for (const cell of [...row.cells].slice(1)) text(cell, "–");
  for (const name of ["ran", "median", "worst", "done"]) delete row.dataset[name];
}

async function showStop(run, from) {
  if (run.way === "job") {
    text("status", `As a job: cancelled. ${duration(performance.now() - from)} later nothing waits or runs.`);
    return;
  }
  if (run.way !== "offloaded") {
    text("status", `${NAMES[run.way]}: connection closed; work that has begun continues, as nothing can stop it.`);
    return;
  }
  let pool;
  do {
    await sleep(20);
    pool = await (await fetch("stats", { cache: "no-store" })).json();
  } while ((pool.busy || pool.queued) && performance.now() - from < 10_000);
  showPool(pool);
  text("status", pool.busy || pool.queued
    ? "Offloaded: connection closed; others keep the workers busy."
    : `Offloaded: connection closed. ${duration(performance.now() - from)} later no worker runs and nothing waits.`);
}

function showButtons() {
  // Not `disabled`, which would take the focus away from under the user's fingers.
  const isGone = isOffline();
  for (const button of document.querySelectorAll("button[data-way], #compare")) {
    button.setAttribute("aria-disabled", String(Boolean(running && !running.byItself) || isGone));
  }
  for (const button of document.querySelectorAll("#upload button")) button.setAttribute("aria-disabled", String(isGone));
  // When it is back, the worker program is asked for.
  if (isGone) find("kill").setAttribute("aria-disabled", "true");
  find("stop").setAttribute("aria-disabled", String(!running));
}

// Whoever presses a button does not wait for what plays by itself: the touch has ended it.
async function afterRound(act) {
  while (running?.byItself) await sleep(20);
  act();
}

// --- the pool ---

const COUNTERS = [
  ["done", (pool) => whole.format(pool.completed)],
  ["refused", (pool) => whole.format(pool.refused)],
  ["cancelled", (pool) => whole.format(pool.cancelled)],
  ["timed out", (pool) => whole.format(pool.timed_out)],
  ["failed", (pool) => whole.format(pool.failed)],
  ["crashed", (pool) => whole.format(pool.crashed)],
  ["run, median", (pool) => (pool.run.count ? duration(pool.run.p50 * 1000) : "–")],
  ["run, p99", (pool) => (pool.run.count ? duration(pool.run.p99 * 1000) : "–")],
  ["wait, median", (pool) => (pool.wait.count ? duration(pool.wait.p50 * 1000) : "–")],
  ["wait, p99", (pool) => (pool.wait.count ? duration(pool.wait.p99 * 1000) : "–")],
];

async function poll() {
  for (;;) {
    await visible();
    try {
      showPool(await (await fetch("stats", { cache: "no-store" })).json());
    } catch {
      // The chart says that there is no answer.
    }
    await sleep(POLL);
  }
}

function showPool(pool) {
  // Nothing fails then: calls only take for ever, and one would think that it is the library.
  const remedy = settings.osPriority === "normal" ? "Fewer workers (DEMO_WORKERS) would leave more to each."
    : "DEMO_OS_PRIORITY=normal would have workers share the CPUs.";
  text("starved", pool.starved_workers
    ? "The machine starves the workers: other programs keep its CPUs busy, and go first. Heavy requests " +
      `take long now. ${remedy}`
    : "");
  const most = Number(settings.maxQueued);
  text("queued", whole.format(pool.queued));
  find("queue").value = most ? pool.queued / most : 0;
  const values = [...find("counters").querySelectorAll("dd")];
  COUNTERS.forEach(([, value], index) => text(values[index], value(pool)));
  const body = find("workers");
  const rows = new Map([...body.rows].map((row) => [row.dataset.pid, row]));
  for (const worker of pool.workers) {
    const row = rows.get(String(worker.pid)) ?? newRow(body, worker.pid);
    rows.delete(String(worker.pid));
    row.dataset.state = worker.state;
    const ran = worker.run_seconds === null ? "" : duration(worker.run_seconds * 1000);
    [worker.pid ?? "–", worker.state, ran, whole.format(worker.tasks_done)].forEach((cell, index) =>
      text(row.cells[index], cell));
  }
  for (const row of rows.values()) {
    if (row.dataset.state === "gone") continue;
    row.dataset.state = "gone";
    text(row.cells[1], "gone");
    text(row.cells[2], "");
    // Long enough to be seen.
    setTimeout(() => row.remove(), 2000);
  }
}

function newRow(body, pid) {
  const row = body.insertRow();
  row.dataset.pid = pid;
  for (let index = 0; index < 4; index += 1) row.insertCell();
  return row;
}

// --- the start ---

function option(select, value, label) {
  find(select).append(new Option(label, value));
}

const flood = Number(settings.maxQueued) + 200;
for (const count of [1, 8, 64]) option("count", count, whole.format(count));
option("count", flood, `${whole.format(flood)}, more than may wait`);
find("count").value = "8";
for (const n of [100_000, 300_000, 1_000_000]) {
  if (n <= Number(settings.maxN)) option("n", n, `primes below ${whole.format(n)}`);
}
find("n").selectedIndex = Math.min(1, find("n").options.length - 1);
text("max-queued", whole.format(settings.maxQueued));
for (const [name] of COUNTERS) {
  const group = document.createElement("div");
  group.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
  find("counters").append(group);
}
for (const button of document.querySelectorAll("button[data-way]")) {
  button.addEventListener("click", () => afterRound(() => fire(button.dataset.way)));
}
find("compare").addEventListener("click", () => afterRound(() => compare(fire)));
find("stop").addEventListener("click", () => running?.stop.abort());
find("upload").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!isOffline()) send(find("file").files[0]);
});
find("sample").addEventListener("click", () => {
  if (!isOffline()) send(sample());
});
setInterval(showChart, 100);
setInterval(describeChart, 2000);
probe();
poll();
watchProgram(visible);
playByItself({
  fire,
  stop: () => running?.stop.abort(),
  isIdle: () => !running && !isOffline(),
  ask: async () => {
    try {
      return (await (await fetch("alone", { cache: "no-store", headers: HEADERS })).json()).alone;
    } catch {
      return false;
    }
  },
});
