// The page of schedules: which there are, when they fire, how they ran, and what can be done to them.

import { connection, isSure, post } from "./asking.js";
import { duration, find, keyed, newRow, ordered, sortingHeads, text, whole } from "./text.js";

const POLL = 2000;
const LIMIT = 50;
const FIELDS = ["text", "status", "order"];
const KINDS = { finished: "good", failed: "bad", timed_out: "bad", cancelled: "warn", running: "now", paused: "warn" };
const WORDS = { timed_out: "timed out", new: "not fired here" };

let start = 0;
let schedules = [];
let total = 0;
let sortBy = "";
let asked = 0;
// The key of the schedule whose history is open.
let open = null;

const word = (name) => WORDS[name] ?? name;

// --- asking ---

async function ask(path, question = {}) {
  const response = await fetch(`schedules/${path}?${new URLSearchParams(question)}`, { cache: "no-store" });
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

async function act(action, schedule) {
  if (action === "pause") {
    const question = `Pause ${schedule.name}? It fires nowhere until it is resumed; a run under way continues.`;
    if (!(await isSure(question, "Pause"))) return;
  }
  await post(`schedules/actions/${action}`, { key: schedule.key });
  await refresh();
}

// --- the list ---

function conditions() {
  const { elements } = find("search");
  return Object.fromEntries(FIELDS.map((name) => [name, elements[name].value.trim()]).filter(([, value]) => value));
}

function search() {
  start = 0;
  // So that a search can be sent to somebody, and survives a reload.
  const question = new URLSearchParams(conditions()).toString();
  history.replaceState(null, "", question ? `?${question}` : location.pathname);
  return refresh();
}

const took = (run) => (run && run.ended_at !== null ? Math.max(run.ended_at - run.started_at, 0) : null);
const KEYS = {
  name: (schedule) => schedule.name,
  status: (schedule) => schedule.status,
  next: (schedule) => schedule.next,
  last: (schedule) => schedule.last?.started_at ?? null,
  took: (schedule) => took(schedule.last),
  late: (schedule) => schedule.late?.max ?? null,
};

function showList(now) {
  const sorted = ordered(schedules, KEYS, sortBy);
  keyed(find("rows"), sorted, (schedule) => schedule.key, newSchedule, (row, schedule) => showSchedule(row, schedule, now));
  const shown = start || schedules.length < total ? `${whole.format(start + 1)} to ${whole.format(start + schedules.length)} of ` : "";
  text(find("found"), total ? `${shown}${whole.format(total)} found${sortBy ? "; sorted among these" : ""}.` : "No schedule matches.");
  find("next").hidden = start + schedules.length >= total;
  find("first").hidden = start === 0;
}

function newSchedule(schedule) {
  const row = newRow(["", "state", "times", "number", "state", "number", "number", "actions"],
    ["Name", "Status", "Fire times", "next in", "Last run", "took", "late, p50 / worst", ""]);
  const button = Object.assign(document.createElement("button"), { type: "button", className: "id" });
  button.addEventListener("click", () => openHistory(schedule.key));
  row.cells[0].append(button);
  const group = Object.assign(document.createElement("span"), { className: "buttons" });
  for (const action of ["run", "pause"]) {
    const made = Object.assign(document.createElement("button"), { type: "button" });
    made.dataset.action = action;
    made.addEventListener("click", () => act(made.dataset.action, schedule));
    group.append(made);
  }
  row.cells[7].append(group);
  return row;
}

function showSchedule(row, schedule, now) {
  const { name, status, last, late } = schedule;
  const button = row.cells[0].firstElementChild;
  text(button, name);
  button.setAttribute("aria-label", `Show the runs of ${name}`);
  button.title = schedule.function;
  text(row.cells[1], word(status));
  row.cells[1].dataset.kind = KINDS[status] ?? "";
  text(row.cells[2], schedule.fire_times);
  text(row.cells[3], schedule.next === null ? "–" : duration(Math.max(schedule.next - now, 0)));
  row.cells[3].title = schedule.next_local ?? "";
  text(row.cells[4], last ? `${word(last.outcome ?? "enqueued")} ${duration(Math.max(now - last.started_at, 0))} ago` : "–");
  row.cells[4].dataset.kind = (last && KINDS[last.outcome]) ?? "";
  row.cells[4].title = last?.error ?? last?.fire_time ?? "";
  text(row.cells[5], duration(took(last)));
  text(row.cells[6], late ? `${duration(late.p50)} / ${duration(late.max)}` : "–");
  const [run, pause] = row.cells[7].firstElementChild.children;
  text(run, "Run now");
  run.setAttribute("aria-label", `Run ${name} now`);
  pause.dataset.action = status === "paused" ? "resume" : "pause";
  text(pause, status === "paused" ? "Resume" : "Pause");
  pause.setAttribute("aria-label", `${status === "paused" ? "Resume" : "Pause"} ${name}`);
}

// --- the runs of one ---

async function openHistory(key) {
  open = key;
  await showHistory();
  if (open === key && !find("history").open) find("history").showModal();
}

async function showHistory() {
  const schedule = schedules.find((each) => each.key === open);
  if (!schedule) return;
  text(find("history-title"), schedule.name);
  const facts = [["Function", schedule.function], ["Fire times", schedule.fire_times], ["Runs", schedule.runs],
    ["Next", schedule.next_local ?? "–"], ["Status", word(schedule.status)]];
  keyed(find("facts"), facts, ([name]) => name, () => {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    return pair;
  }, (pair, [name, value]) => {
    text(pair.children[0], name);
    text(pair.children[1], value);
  });
  try {
    const { runs } = await ask("history", { key: schedule.key });
    keyed(find("runs"), runs, (run) => run.id, () => newRow(["", "", "state", "number", "told"],
      ["Fire time", "Why", "Outcome", "took", "Error"]), showRun);
    text(find("runs-count"), runs.length ? whole.format(runs.length) : "There was none yet.");
  } catch (error) {
    text(find("runs-count"), error instanceof TypeError ? "Not connected" : error.message);
  }
}

function showRun(row, run) {
  text(row.cells[0], run.fire_time);
  text(row.cells[1], run.reason);
  text(row.cells[2], word(run.outcome ?? "not ended"));
  row.cells[2].dataset.kind = KINDS[run.outcome] ?? "";
  text(row.cells[3], duration(took(run)));
  text(row.cells[4], run.error ?? "");
}

// --- again and again ---

async function refresh() {
  const number = (asked += 1);
  try {
    const told = await ask("list", { ...conditions(), limit: LIMIT, start });
    if (number !== asked) return;
    document.body.classList.toggle("actions", told.actions);
    find("none").hidden = told.all > 0 || told.problem !== null;
    find("content").hidden = told.all === 0;
    find("problem").hidden = told.problem === null;
    text(find("problem"), told.problem ?? "");
    schedules = told.schedules;
    total = told.found;
    showList(told.at);
    if (open) await showHistory();
    connection("live", "Live");
  } catch (error) {
    if (number === asked) connection("lost", error instanceof TypeError ? "Not connected; trying again" : error.message);
  }
}

function begin() {
  const given = new URLSearchParams(location.search);
  const { elements } = find("search");
  for (const name of FIELDS) if (given.get(name)) elements[name].value = given.get(name);
  find("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  for (const name of ["status", "order"]) elements[name].addEventListener("change", search);
  find("next").addEventListener("click", () => {
    start += schedules.length;
    refresh();
  });
  find("first").addEventListener("click", search);
  sortingHeads(find("rows").closest("table"), () => sortBy, (by) => {
    sortBy = by;
    showList(Date.now() / 1000);
  });
  find("history-close").addEventListener("click", () => find("history").close());
  find("history").addEventListener("close", () => { open = null; });
  const turn = async () => {
    if (!document.hidden) await refresh();
    setTimeout(turn, POLL);
  };
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  turn();
}

begin();
