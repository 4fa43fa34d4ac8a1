// The page of jobs: queues, a list that can be searched and sorted, and what can be done to them.

import { connection, isSure, post } from "./asking.js";
import { openJob } from "./job.js";
import { startHistory } from "./jobs_history.js";
import { line } from "./pictures.js";
import { duration, find, keyed, newRow, ordered, sortingHeads, text, whole } from "./text.js";

const POLL = 2000;
const HISTORY = 600;
const LIMIT = 50;
export const KINDS = { active: "now", completed: "good", failed: "bad", cancelled: "warn", delayed: "soft", waiting: "soft" };
const COUNTED = ["waiting", "delayed", "active", "failed", "cancelled", "completed"];
const SURE = {
  cancel: ["Cancel {what}? Running jobs are stopped.", "Cancel"],
  remove: ["Forget {what}? Results and errors of ended jobs are deleted; other jobs stay.", "Forget"],
  pause: ["Pause queue {what}? No worker program begins its jobs until it is resumed.", "Pause"],
};

let store = "";
let cursor = null;
let nextCursor = null;
let jobs = [];
let sortBy = "";
let asked = 0;
const chosen = new Set();
const histories = new Map();

// --- asking ---

export async function ask(path, question = {}) {
  const search = new URLSearchParams(question);
  if (store) search.set("store", store);
  const response = await fetch(`jobs/${path}?${search}`, { cache: "no-store" });
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  if (!response.ok && !(isJson && path === "overview")) throw new Error((await response.text()).trim());
  return response.json();
}

export async function act(action, targets, what, said = find("said")) {
  if (!targets.length) return;
  if (action in SURE) {
    const [question, label] = SURE[action];
    if (!(await isSure(question.replace("{what}", what), label))) return;
  }
  const question = targets.map((target) => [action === "pause" || action === "resume" ? "queue" : "id", target]);
  if (store) question.push(["store", store]);
  await post(`jobs/actions/${action}`, question, said);
  await refresh();
}

// --- queues ---

function showOverview(told) {
  document.body.classList.toggle("actions", told.actions);
  find("none").hidden = told.stores.length > 0;
  find("content").hidden = told.stores.length === 0;
  if (!told.stores.length) return;
  showStores(told);
  const queues = told.queues ?? [];
  find("history-box").hidden = told.history === false;
  for (const queue of queues) remember(queue, told.at);
  keyed(find("queues"), queues, (queue) => queue.name, newQueue, (row, queue) => showQueue(row, queue, told.at));
  options(find("search").elements.queue, ["", ...queues.map((queue) => queue.name)], "any");
  const programs = new Map();
  for (const job of told.active) programs.set(job.worker, (programs.get(job.worker) ?? 0) + 1);
  text(find("at-work"), programs.size
    ? `At work: ${[...programs].map(([name, count]) => `${name} (${count === 1 ? "1 job" : `${whole.format(count)} jobs`})`).join(", ")}`
    : queues.length ? "No job runs." : "There has been no job yet.");
  const age = told.counts_age;
  text(find("counted"), age === null ? "There are too many jobs for the store to count in time."
    : age > 10 ? `Counted ${duration(age)} ago: counting takes the store long.` : "");
  if (told.health) {
    const { engine, version, round_trip: seconds, problems } = told.health;
    text(find("store-facts"), `${engine} ${version}, answers in ${duration(seconds)}`);
    find("problems").replaceChildren(...problems.map((problem) => Object.assign(document.createElement("li"), { textContent: problem })));
    find("problems").hidden = problems.length === 0;
  }
}

function showStores(told) {
  options(find("store"), told.stores.map((each) => each.name));
  find("store").value = told.store;
  find("store-box").hidden = told.stores.length < 2;
}

export function options(select, names, ofNone) {
  const there = [...select.options].map((option) => option.value);
  if (there.join("\n") === names.join("\n")) return;
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name || ofNone, name)));
  if (names.includes(before)) select.value = before;
}

function remember(queue, at) {
  const history = histories.get(queue.name) ?? [];
  histories.set(queue.name, history);
  history.push({ at, value: queue.waiting + queue.delayed });
  while (history[0].at < at - HISTORY) history.shift();
}

function newQueue(queue) {
  const row = newRow(["", "number", "number", "number", "number", "number", "number", "", "actions"],
    ["Queue", ...COUNTED, "waiting, last 10 min", ""]);
  COUNTED.forEach((state, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "count";
    button.addEventListener("click", () => search({ state, queue: queue.name }));
    row.cells[index + 1].append(button);
  });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  row.cells[7].append(canvas);
  const pause = document.createElement("button");
  pause.type = "button";
  pause.addEventListener("click", () => act(pause.dataset.action, [queue.name], queue.name));
  const group = document.createElement("span");
  group.className = "buttons";
  group.append(pause);
  row.cells[8].append(group);
  return row;
}

function showQueue(row, queue, at) {
  row.classList.toggle("paused", queue.is_paused);
  text(row.cells[0], queue.name);
  COUNTED.forEach((state, index) => {
    const button = row.cells[index + 1].firstElementChild;
    text(button, whole.format(queue[state]));
    button.dataset.kind = state === "failed" && queue[state] ? "bad" : "";
    button.setAttribute("aria-label", `${whole.format(queue[state])} ${state} in ${queue.name}: show them`);
  });
  line(row.cells[7].firstElementChild, histories.get(queue.name), at, HISTORY, `Waiting and delayed jobs of ${queue.name} in the last ten minutes`);
  const pause = row.cells[8].querySelector("button");
  pause.dataset.action = queue.is_paused ? "resume" : "pause";
  text(pause, queue.is_paused ? "Resume" : "Pause");
  pause.setAttribute("aria-label", `${queue.is_paused ? "Resume" : "Pause"} queue ${queue.name}`);
}

// --- the list ---

function search(values) {
  const { elements } = find("search");
  for (const name of ["state", "queue", "function", "id", "order"]) if (name in values) elements[name].value = values[name];
  cursor = null;
  chosen.clear();
  noteInAddress();
  return refresh().then(() => find("found").scrollIntoView({ block: "nearest" }));
}

function conditions() {
  const { elements } = find("search");
  return Object.fromEntries(["state", "queue", "function", "id", "order"]
    .map((name) => [name, elements[name].value.trim()]).filter(([, value]) => value));
}

// So that a search can be sent to somebody, and survives a reload.
export function noteInAddress() {
  const span = find("history-box").open ? { span: find("span").value } : {};
  const question = new URLSearchParams({ ...conditions(), ...(store ? { store } : {}), ...span }).toString();
  history.replaceState(null, "", question ? `?${question}` : location.pathname);
}

const ran = (job, now) => (job.started_at === null ? null : (job.ended_at ?? (job.state === "active" ? now : job.started_at)) - job.started_at);
const keysAt = (now) => ({
  id: (job) => job.id, function: (job) => job.function, queue: (job) => job.queue, state: (job) => job.state,
  age: (job) => now - job.created_at, attempts: (job) => job.attempts + job.crashes, ran: (job) => ran(job, now),
});

function showList(now) {
  const sorted = ordered(jobs, keysAt(now), sortBy);
  keyed(find("rows"), sorted, (job) => job.id, newJob, (row, job) => showJob(row, job, now));
  for (const id of chosen) if (!jobs.some((job) => job.id === id)) chosen.delete(id);
  showChosen();
  const more = nextCursor ? ", and there are more" : "";
  text(find("found"), jobs.length ? `${jobs.length} shown${more}${sortBy ? "; sorted among these" : ""}.` : "No job matches.");
  find("next").hidden = !nextCursor;
  find("first").hidden = !cursor;
}

function newJob(job) {
  const row = newRow(["actions", "", "state", "function", "", "number", "number", "number", "told"],
    ["", "Id", "State", "Function", "Queue", "age", "attempts", "ran for", "Progress or error"]);
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  box.setAttribute("aria-label", `Choose job ${job.id}`);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(job.id);
    else chosen.delete(job.id);
    showChosen();
  });
  row.cells[0].append(box);
  const open = Object.assign(document.createElement("button"), { type: "button", className: "id" });
  open.addEventListener("click", () => openJob(job.id));
  row.cells[1].append(open);
  const bar = Object.assign(document.createElement("progress"), { max: 1, hidden: true });
  bar.setAttribute("aria-label", `Progress of job ${job.id}`);
  row.cells[8].append(bar, document.createElement("span"));
  return row;
}

function showJob(row, job, now) {
  row.cells[0].firstElementChild.checked = chosen.has(job.id);
  // A UUID begins with the time: its end tells two jobs apart.
  const open = row.cells[1].firstElementChild;
  text(open, job.id.length > 20 ? `${job.id.slice(0, 8)}…${job.id.slice(-6)}` : job.id);
  open.setAttribute("aria-label", `Show job ${job.id}`);
  open.title = job.id;
  text(row.cells[2], job.is_cancel_asked ? `${job.state}, to be cancelled` : job.state);
  row.cells[2].dataset.kind = KINDS[job.state];
  text(row.cells[3], job.function);
  text(row.cells[4], job.queue);
  text(row.cells[5], duration(Math.max(now - job.created_at, 0)));
  text(row.cells[6], job.crashes ? `${job.attempts} + ${job.crashes} crashed` : `${job.attempts} of ${job.max_attempts}`);
  const seconds = ran(job, now);
  text(row.cells[7], seconds === null ? "" : duration(seconds));
  const [bar, told] = row.cells[8].children;
  const share = job.progress && job.progress[1] ? Math.min(job.progress[0] / job.progress[1], 1) : null;
  bar.hidden = job.state !== "active" || share === null;
  if (share !== null) bar.value = share;
  text(told, job.state === "active" && share !== null ? ` ${Math.floor(share * 100)} %`
    : job.state === "delayed" && job.due_at ? `due in ${duration(Math.max(job.due_at - now, 0))}` : (job.error ?? ""));
}

function showChosen() {
  find("bulk").style.visibility = chosen.size ? "visible" : "hidden";
  text(find("chosen"), chosen.size ? `${chosen.size} chosen` : "");
  find("all").checked = jobs.length > 0 && jobs.every((job) => chosen.has(job.id));
}

// --- again and again ---

let isFirst = true;

export async function refresh() {
  const number = (asked += 1);
  try {
    const told = await ask("overview", isFirst ? { health: 1 } : {});
    if (number !== asked) return;
    if (told.problem) throw new Error(told.problem);
    isFirst = false;
    showOverview(told);
    if (told.stores.length) {
      const page = await ask("list", { ...conditions(), limit: LIMIT, ...(cursor ? { cursor } : {}) });
      if (number !== asked) return;
      jobs = page.jobs;
      nextCursor = page.cursor;
      showList(told.at);
    }
    connection("live", "Live");
  } catch (error) {
    if (number === asked) connection("lost", error instanceof TypeError ? "Not connected; trying again" : error.message);
  }
}

function start() {
  const given = new URLSearchParams(location.search);
  store = given.get("store") ?? "";
  const { elements } = find("search");
  // The options of queues are not known yet.
  if (given.get("queue")) elements.queue.append(new Option(given.get("queue"), given.get("queue")));
  for (const name of ["state", "queue", "function", "id", "order"]) if (given.get(name)) elements[name].value = given.get(name);
  find("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search({});
  });
  for (const name of ["state", "queue", "order"]) elements[name].addEventListener("change", () => search({}));
  find("store").addEventListener("change", () => {
    store = find("store").value;
    isFirst = true;
    histories.clear();
    search({});
  });
  find("next").addEventListener("click", () => {
    cursor = nextCursor;
    chosen.clear();
    refresh();
  });
  find("first").addEventListener("click", () => search({}));
  find("all").addEventListener("change", (event) => {
    for (const job of jobs) if (event.target.checked) chosen.add(job.id); else chosen.delete(job.id);
    showList(Date.now() / 1000);
  });
  for (const button of find("bulk").querySelectorAll("button")) {
    button.addEventListener("click", () => act(button.dataset.action, [...chosen],
      chosen.size === 1 ? `job ${[...chosen][0]}` : `${chosen.size} jobs`));
  }
  sortingHeads(find("rows").closest("table"), () => sortBy, (by) => {
    sortBy = by;
    showList(Date.now() / 1000);
  });
  startHistory(given);
  const turn = async () => {
    if (!document.hidden) await refresh();
    setTimeout(turn, POLL);
  };
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  turn();
}

start();
