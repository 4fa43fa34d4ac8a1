// One card for each pool: its load, workers, functions and failures.

import { bars, line } from "./pictures.js";
import { act } from "./actions.js";
import { watchHistory } from "./history.js";
import { openTask, watchTasks } from "./tasks.js";
import { bytes, cells, duration, find, keyed, memory, newRow, part, progress, removeRow, share, showProgress, text, time, whole } from "./text.js";
import { has, sortable, sorted, view } from "./view.js";

const HISTORY = 120;
// Seconds over which a rate is taken: shorter, it would jump.
const RATE = 2;
// Milliseconds that a worker which is gone can still be seen.
const FAREWELL = 3000;
// Milliseconds between two searches among functions that samples leave out.
const SEARCH = 2000;
// Outcomes that are no fault of anybody, and those that are no news.
const CALM = new Set(["completed", "cancelled"]);
const words = (outcome) => (outcome === "completed" ? "done" : outcome.replaceAll("_", " "));
const STATES = { open: "good", draining: "warn", closed: "bad" };
const KINDS = { crashed: "bad", not_started: "bad", failed: "bad", timed_out: "warn", refused: "warn" };
// The server says which outcomes there are: each has a tile.
const tiles = (pool) => [
  ...pool.outcomes.map((outcome) => [words(outcome), (now) => whole.format(now[outcome]),
    (now) => !CALM.has(outcome) && now[outcome]]),
  ["recycled", (pool) => whole.format(pool.recycled)],
  ["without CPU", (pool) => duration(pool.starved_seconds), (pool) => pool.starved_workers],
  ["run, p50", (pool) => duration(pool.run.count ? pool.run.p50 : null)],
  ["run, p99", (pool) => duration(pool.run.count ? pool.run.p99 : null)],
  ["wait, p50", (pool) => duration(pool.wait.count ? pool.wait.p50 : null)],
  ["wait, p99", (pool) => duration(pool.wait.count ? pool.wait.p99 : null)],
  ["waiting, size", (pool) => bytes(pool.queued_bytes)],
];

const WORKERS = { worker: (each) => each.pid, state: (each) => each.state, function: (each) => each.function,
  run: (each) => each.run_seconds, cpu: (each) => each.cpu, memory: (each) => each.pss_bytes ?? each.rss_bytes, tasks: (each) => each.tasks_done };
const FUNCTIONS = { function: (each) => each.name, running: (each) => each.running, queued: (each) => each.queued,
  completed: (each) => each.completed, others: (each) => each.others, run: (each) => (each.run.count ? each.run.p99 : null),
  wait: (each) => (each.wait.count ? each.wait.p99 : null) };
const WORKER_LABELS = ["Worker", "State", "Function", "running for", "CPU", "memory", "tasks", ""];
const FUNCTION_LABELS = ["Function", "running", "waiting", "done", "not done", "Run time", "Queue wait"];

const histories = new Map();
// Of pools with more functions than a sample has: what the server has found by name.
const found = new Map();

export function showPools(sample) {
  keyed(find("pools"), sample.pools, (pool) => pool.name, (pool) => newCard(pool, sample), (card, pool) =>
    showPool(card, pool, sample));
}

function newCard(pool, sample) {
  const card = find("pool").content.firstElementChild.cloneNode(true);
  for (const [name] of tiles(pool)) {
    const tile = document.createElement("div");
    tile.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
    part(card, "tiles").append(tile);
  }
  for (const button of card.querySelectorAll("[data-action]")) {
    button.addEventListener("click", () => act(button.dataset.action, pool.name));
  }
  sortable(part(card, "workers-table"), "workers");
  sortable(part(card, "functions-table"), "functions");
  watchTasks(card, pool.name);
  part(card, "history-box").hidden = !sample.history;
  if (sample.history) watchHistory(card, pool.name);
  const form = part(card, "limits");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { max_workers: workers, max_queued: queued } = form.elements;
    act("limits", pool.name, { max_workers: workers.value, max_queued: queued.value || "none" });
    part(card, "limits-box").open = false;
  });
  part(card, "limits-box").addEventListener("toggle", (event) => {
    if (!event.target.open) return;
    // As they are now; what somebody is typing is left alone by samples.
    form.elements.max_workers.value = card.dataset.workers;
    form.elements.max_queued.value = card.dataset.queued;
    form.elements.max_workers.focus();
  });
  return card;
}

function showPool(card, pool, sample) {
  const { history, rate } = remember(pool, sample.at);
  card.dataset.workers = pool.max_workers;
  card.dataset.queued = pool.max_queued ?? "";
  text(card.querySelector("h2"), pool.name);
  card.setAttribute("aria-label", `Pool ${pool.name}`);
  text(part(card, "state"), pool.state);
  part(card, "state").dataset.kind = STATES[pool.state] ?? "";
  card.querySelector('[data-action="drain"]').hidden = pool.state !== "open";
  card.querySelector('[data-action="open"]').hidden = pool.state === "open";

  showStarved(card, pool);
  showMeter(card, "busy", pool.busy, pool.max_workers);
  showMeter(card, "queued", pool.queued, pool.max_queued);
  text(part(card, "rate"), whole.format(Math.round(rate)));
  line(part(card, "rate-line"), history.map(({ at, rate: value }) => ({ at, value })), sample.at, HISTORY,
    "Calls per second in the last two minutes");
  line(part(card, "queued-line"), history.map(({ at, queued: value }) => ({ at, value })), sample.at, HISTORY,
    "Waiting calls in the last two minutes");
  [...part(card, "tiles").querySelectorAll("dd")].forEach((value, index) => {
    const [, show, isBad] = tiles(pool)[index];
    text(value, show(pool));
    value.dataset.kind = isBad?.(pool) ? "bad" : "";
  });

  // Those that have no process id are told apart by their order.
  pool.workers.forEach((worker, index) => { worker.key = worker.pid ?? `no ${index}`; });
  const workers = sorted(pool.workers.filter((worker) => has(worker.function, worker.pid, worker.state)), "workers", WORKERS);
  const isThere = new Set(pool.workers.map((worker) => String(worker.key)));
  keyed(part(card, "workers"), workers, (worker) => worker.key,
    (worker) => newWorker(worker, pool.name, history.length > 1), showWorker,
    (row) => (isThere.has(row.dataset.key) ? row.remove() : sayFarewell(row)));
  showFunctions(card, pool);
  showFailures(card, pool);
}

function showFunctions(card, pool) {
  const all = pool.functions_left_out && view.q.trim() ? searched(pool) : pool.functions;
  for (const each of all) {
    each.others = pool.outcomes.reduce((sum, outcome) => sum + (outcome === "completed" ? 0 : each[outcome]), 0);
  }
  const functions = sorted(all.filter((each) => has(each.name)), "functions", FUNCTIONS);
  keyed(part(card, "functions"), functions, (each) => each.name, newFunction,
    (row, each) => showFunction(row, each, pool.outcomes));
  text(part(card, "left-out"), view.q.trim() ? ` (${whole.format(functions.length)} found)`
    : pool.functions_left_out ? ` (${pool.functions_left_out} more, called less, are found by their name)` : "");
}

function searched(pool) {
  const contains = view.q.trim();
  const last = found.get(pool.name);
  if (!last || last.contains !== contains || Date.now() - last.at > SEARCH) {
    // Until the answer is there, what was found last.
    found.set(pool.name, { contains, at: Date.now(), functions: last?.contains === contains ? last.functions : pool.functions });
    fetch(`functions?${new URLSearchParams({ pool: pool.name, contains })}`)
      .then((response) => (response.ok ? response.json() : null))
      .then((functions) => {
        const now = found.get(pool.name);
        if (functions && now.contains === contains) now.functions = functions;
      })
      .catch(() => {});
  }
  return found.get(pool.name).functions;
}

function remember(pool, at) {
  let history = histories.get(pool.name);
  if (!history || history.at(-1)?.opened !== pool.opened_at) histories.set(pool.name, (history = []));
  // Shown anew, by another search or theme, it is still one sample.
  if (history.at(-1)?.at === at) return { history, rate: history.at(-1).rate };
  const ended = pool.outcomes.reduce((sum, name) => sum + (name === "refused" ? 0 : pool[name]), 0);
  const then = history.findLast((point) => point.at <= at - RATE) ?? history[0];
  const rate = then && at > then.at ? Math.max(ended - then.ended, 0) / (at - then.at) : 0;
  history.push({ at, ended, rate, queued: pool.queued, opened: pool.opened_at });
  while (history[0].at < at - HISTORY) history.shift();
  return { history, rate };
}

// That calls take for ever, and nothing fails, has no other sign.
function showStarved(card, pool) {
  const starved = pool.starved_workers;
  text(part(card, "starved"), starved
    ? `${starved === 1 ? "1 worker gets" : `${whole.format(starved)} workers get`} next to no CPU time: ` +
      "busy processes beside them go first. Set os_priority=\"normal\" or fewer workers, or leave CPUs to them."
    : "");
}

function showMeter(card, name, value, most) {
  const meter = part(card, `${name}-meter`);
  text(part(card, name), most === null ? `${whole.format(value)}, no limit` : `${whole.format(value)} of ${whole.format(most)}`);
  meter.hidden = most === null;
  meter.max = Math.max(most ?? 1, 1);
  // All workers busy is what they are for; a full queue is not.
  meter.low = meter.high = name === "queued" ? 0.8 * meter.max : meter.max;
  meter.optimum = 0;
  meter.value = value;
}

function newWorker(worker, pool, isLater) {
  const row = newRow(["", "", "function", "number", "number", "number", "number", "actions"], WORKER_LABELS);
  const open = Object.assign(document.createElement("button"), { type: "button", className: "link" });
  open.addEventListener("click", () => openTask(pool, open.dataset.task));
  row.cells[2].append(open, progress(`Progress of worker ${worker.pid ?? ""}`));
  // Those that are there when the page opens are not new.
  if (isLater) row.className = "new";
  if (worker.pid === null) return row;
  const group = document.createElement("span");
  group.className = "buttons";
  for (const [action, label] of [["cancel", "Cancel task"], ["recycle", "Recycle"]]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
    button.dataset.action = action;
    button.setAttribute("aria-label", `${label} of worker ${worker.pid}`);
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") !== "true") act(action, pool, { pid: worker.pid });
    });
    group.append(button);
  }
  row.cells[7].append(group);
  return row;
}

function showWorker(row, worker) {
  row.dataset.state = worker.state;
  const state = worker.state + (worker.starved ? ", no CPU" : "") + (worker.recycling ? ", to be replaced" : "");
  const running = worker.run_seconds === null ? "" : duration(worker.run_seconds);
  [worker.pid ?? "–", state, null, running, share(worker.cpu), memory(worker), whole.format(worker.tasks_done)]
    .forEach((value, index) => { if (value !== null) text(row.cells[index], value); });
  const [open, bar] = row.cells[2].children;
  open.dataset.task = worker.task ?? "";
  open.hidden = worker.task === null;
  text(open, worker.function ?? "");
  showProgress(bar, worker.progress);
  const isAble = { cancel: worker.state === "busy", recycle: ["idle", "busy"].includes(worker.state) && !worker.recycling };
  for (const button of row.querySelectorAll("[data-action]")) {
    button.setAttribute("aria-disabled", String(!isAble[button.dataset.action]));
  }
}

function sayFarewell(row) {
  if (row.dataset.state === "gone") return;
  row.dataset.state = "gone";
  text(row.cells[1], "gone");
  setTimeout(() => removeRow(row), FAREWELL);
}

function newFunction() {
  const row = newRow(["function", "number", "number", "number", "number", "", ""], FUNCTION_LABELS);
  for (const cell of [row.cells[5], row.cells[6]]) {
    const box = document.createElement("span");
    box.className = "bars";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    box.append(canvas, document.createElement("span"));
    cell.append(box);
  }
  return row;
}

function showFunction(row, each, outcomes) {
  const limit = each.max_concurrency === null ? "" : ` of ${each.max_concurrency}`;
  const others = outcomes.filter((outcome) => outcome !== "completed")
    .map((outcome) => [words(outcome), each[outcome]]).filter(([, count]) => count);
  cells(row, [each.name, `${each.running}${limit}`, whole.format(each.queued), whole.format(each.completed),
    others.map(([name, count]) => `${whole.format(count)} ${name}`).join(", ") || "0"]);
  for (const [cell, histogram, name] of [[row.cells[5], each.run, "Run time"], [row.cells[6], each.wait, "Queue wait"]]) {
    bars(cell.querySelector("canvas"), histogram, name);
    text(cell.querySelector(".bars > span"), histogram.count
      ? `p50 ${duration(histogram.p50)}, p99 ${duration(histogram.p99)}` : "–");
  }
}

function showFailures(card, pool) {
  const list = part(card, "failures");
  const failures = pool.failures.toReversed().filter((each) => (!view.kind || each.kind === view.kind)
    && has(each.function, each.error, each.message, each.pid));
  text(part(card, "failures-count"), failures.length === pool.failures.length ? (failures.length ? "" : "none")
    : `${failures.length} of ${pool.failures.length}`);
  keyed(list, failures, (failure) => `${failure.at} ${failure.function}`,
    (failure) => newFailure(failure, pool.name), () => {},
    // What somebody reads is not taken away, unless they look for something else.
    (element) => { if (!element.open || view.q || view.kind) element.remove(); });
}

function newFailure(failure, pool) {
  const details = find("failure").content.firstElementChild.cloneNode(true);
  text(details.querySelector("time"), time(failure.at));
  details.querySelector("time").dateTime = new Date(failure.at * 1000).toISOString();
  const badge = details.querySelector(".badge");
  text(badge, failure.kind.replace("_", " "));
  badge.dataset.kind = KINDS[failure.kind] ?? "";
  text(details.querySelector(".function"), failure.function);
  text(details.querySelector(".error"), `${failure.error}: ${failure.message.split("\n", 1)[0]}`);
  details.addEventListener("toggle", async () => {
    if (!details.open || details.dataset.asked) return;
    details.dataset.asked = "yes";
    text(details.querySelector("pre"), await story(failure, pool));
  });
  return details;
}

async function story(failure, pool) {
  const where = failure.pid === null ? "in no worker" : `in worker ${failure.pid}`;
  try {
    const question = new URLSearchParams({ pool, at: failure.at, function: failure.function });
    const response = await fetch(`failure?${question}`);
    if (!response.ok) return `${failure.error}, ${where}: ${failure.message}\n\n${await response.text()}`;
    const told = await response.json();
    return [`${failure.error}, ${where}: ${told.message}`, told.traceback,
      told.story.length ? `What happened to the pool:\n${told.story.join("\n")}` : ""].filter(Boolean).join("\n\n");
  } catch {
    return `${failure.error}, ${where}: ${failure.message}\n\nThe server does not answer.`;
  }
}
