// What runs and what waits, task by task; and one of them in full.

import { act } from "./actions.js";
import { bytes, cells, duration, find, keyed, newRow, part, progress, showProgress, text, whole } from "./text.js";
import { has, sortable, sorted, view } from "./view.js";

const POLL = 1000;
const LABELS = ["Task", "State", "waited", "running for", "Worker", "Request", "Progress", ""];
const CLASSES = ["function", "", "number", "number", "", "wide", "", "actions"];
const KEYS = {
  function: (task) => task.function, state: (task) => task.state, wait: (task) => task.wait_seconds,
  run: (task) => task.run_seconds, worker: (task) => task.pid, request: (task) => task.request,
};
const STATES = { held: "held: its function is at its limit", unwanted: "unwanted: it cannot be stopped" };

// Asks for the tasks of a pool for as long as its list is open and somebody looks.
export function watchTasks(card, pool) {
  const box = part(card, "tasks-box");
  sortable(box.querySelector("table"), "tasks");
  let timer;
  const look = async () => {
    clearTimeout(timer);
    if (!box.open || !card.isConnected) return;
    if (!document.hidden) await showTasks(card, pool);
    timer = setTimeout(look, POLL);
  };
  box.addEventListener("toggle", look);
}

async function showTasks(card, pool) {
  const note = part(card, "tasks-note");
  let told;
  try {
    const response = await fetch(`tasks?${new URLSearchParams({ pool, contains: view.q.trim() })}`);
    if (!response.ok) throw new Error((await response.text()).trim());
    told = await response.json();
  } catch (error) {
    text(note, error instanceof TypeError ? "The server does not answer." : error.message);
    return;
  }
  const tasks = sorted(told.tasks.filter((task) => has(task.function, task.request)), "tasks", KEYS);
  keyed(part(card, "tasks"), tasks, (task) => task.id, (task) => newTask(task, pool), showTask);
  const waiting = tasks.filter((task) => task.run_seconds === null).length;
  text(note, told.queued > waiting ? `${whole.format(waiting)} of ${whole.format(told.queued)} that wait are shown, the next first.`
    : tasks.length ? "" : "Nothing runs and nothing waits.");
}

function newTask(task, pool) {
  const row = newRow(CLASSES, LABELS);
  const open = Object.assign(document.createElement("button"), { type: "button", className: "link", textContent: task.function });
  open.setAttribute("aria-label", `Show task ${task.id} of ${task.function}`);
  open.addEventListener("click", () => openTask(pool, task.id));
  row.cells[0].append(open);
  row.cells[6].append(progress(`Progress of task ${task.id}`));
  const cancel = Object.assign(document.createElement("button"), { type: "button", textContent: "Cancel" });
  cancel.dataset.action = "stop";
  cancel.setAttribute("aria-label", `Cancel task ${task.id} of ${task.function}`);
  cancel.addEventListener("click", () => act("stop", pool, { task: task.id, function: task.function }));
  row.cells[7].append(cancel);
  return row;
}

function showTask(row, task) {
  row.dataset.state = task.state === "running" ? "busy" : task.state;
  [STATES[task.state] ?? task.state, duration(task.wait_seconds), task.run_seconds === null ? "" : duration(task.run_seconds),
    task.pid ?? "", task.request ?? ""].forEach((value, index) => text(row.cells[index + 1], value));
  showProgress(row.cells[6].firstElementChild, task.progress);
}

// --- one of them ---

let opened = null;
let timer;

export async function openTask(pool, id) {
  opened = { pool, id };
  text(find("task-said"), "");
  text(find("task-title"), id);
  find("task-facts").replaceChildren();
  find("task-arguments-box").hidden = true;
  showProgress(find("task-progress"), null);
  find("task").showModal();
  find("task-close").focus();
  await lookAtOne();
}

async function lookAtOne() {
  clearTimeout(timer);
  const asked = opened;
  if (!asked) return;
  try {
    const response = await fetch(`task?${new URLSearchParams(asked)}`);
    if (asked !== opened) return;
    if (response.status === 404) {
      text(find("task-state"), "ended");
      text(find("task-said"), "It is counted under Functions; if it was not done, Recent failures say why.");
      find("task-cancel").hidden = true;
      return;
    }
    if (!response.ok) throw new Error((await response.text()).trim());
    showOne(await response.json());
  } catch (error) {
    text(find("task-said"), error instanceof TypeError ? "The server does not answer." : error.message);
  }
  if (asked === opened) timer = setTimeout(lookAtOne, POLL);
}

function showOne(task) {
  text(find("task-title"), task.function);
  opened.function = task.function;
  text(find("task-state"), task.state);
  find("task-cancel").hidden = task.state === "unwanted";
  showProgress(find("task-progress"), task.progress);
  const facts = [
    ["task", task.id],
    ["queue wait", duration(task.wait_seconds)],
    ["running for", task.run_seconds === null ? null : duration(task.run_seconds)],
    ["timeout", task.timeout === null ? "none" : duration(task.timeout)],
    ["worker", task.pid === null ? null : `process ${task.pid}`],
    ["priority", task.priority],
    ["size of its arguments", bytes(task.size_bytes)],
    ["request", task.request ?? "not known"],
    ["trace", task.trace_id ?? "none"],
  ].filter(([, value]) => value !== null);
  keyed(find("task-facts"), facts, ([name]) => name, ([name]) => {
    const entry = document.createElement("div");
    entry.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
    return entry;
  }, (entry, [, value]) => text(entry.lastElementChild, value));
  find("task-arguments-box").hidden = task.arguments === null;
  text(find("task-arguments"), task.arguments ?? "");
}

find("task-close").addEventListener("click", () => find("task").close());
find("task").addEventListener("close", () => {
  opened = null;
  clearTimeout(timer);
});
find("task-cancel").addEventListener("click", async () => {
  const { pool, id } = opened;
  await act("stop", pool, { task: id, function: opened.function }, find("task-said"));
  await lookAtOne();
});
