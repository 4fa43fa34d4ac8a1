// One job in full: facts, arguments, attempts, error, log records; and what can be done to it.

import { KINDS, act, ask } from "./jobs.js";
import { cells, duration, find, newRow, text, time, whole } from "./text.js";

const POLL = 1000;
const LINES = 500;
const OVER = new Set(["completed", "failed", "cancelled"]);

let id = null;
let first = 0;
let shown = 0;
let timer;

export async function openJob(jobId) {
  id = jobId;
  first = shown = 0;
  find("logs").replaceChildren();
  text(find("job-said"), "");
  text(find("job-title"), jobId);
  find("job").showModal();
  find("job-close").focus();
  await look();
}

async function look() {
  clearTimeout(timer);
  const asked = id;
  let isOver = false;
  try {
    const job = await ask("job", { id: asked });
    if (asked !== id || !find("job").open) return;
    show(job);
    await showLogs(job);
    isOver = OVER.has(job.state);
  } catch (error) {
    text(find("job-said"), error instanceof TypeError ? "The server does not answer." : error.message);
  }
  // A job that is over changes only if somebody retries it.
  if (asked === id && find("job").open) timer = setTimeout(look, isOver ? 5 * POLL : POLL);
}

function show(job) {
  text(find("job-state"), job.is_cancel_asked ? `${job.state}, to be cancelled` : job.state);
  find("job-state").dataset.kind = KINDS[job.state];
  for (const button of find("job").querySelectorAll("[data-action]")) {
    const isAble = { retry: ["failed", "cancelled"].includes(job.state), cancel: !OVER.has(job.state), remove: OVER.has(job.state) };
    button.hidden = !isAble[button.dataset.action];
  }
  const share = job.progress && job.progress[1] ? Math.min(job.progress[0] / job.progress[1], 1) : null;
  find("job-progress").hidden = job.progress === null;
  find("job-progress").firstElementChild.hidden = share === null;
  if (share !== null) find("job-progress").firstElementChild.value = share;
  if (job.progress) {
    const [done, total] = job.progress.map((value) => (value === null ? null : whole.format(value)));
    text(find("job-progress").lastElementChild, total === null ? done : `${done} of ${total}`);
  }
  showFacts(job);
  showText("arguments", job.arguments);
  find("result-box").hidden = job.result === null;
  showText("result", job.result);
  find("failure-box").hidden = job.failure === null;
  text(find("failure"), job.failure ? `${job.failure.type}: ${job.failure.message}\n\n${job.failure.traceback}`.trim() : "");
  showAttempts(job);
}

function showFacts(job) {
  const { options } = job;
  const facts = [
    ["function", job.function],
    ["queue", job.priority ? `${job.queue}, priority ${job.priority}` : job.queue],
    ["attempts", `${job.attempts} of ${options.max_attempts}`],
    ["crashes", `${job.crashes}; it fails after more than ${options.max_crashes}`],
    ["enqueued", `${at(job.created_at)} by ${job.enqueued_by || "?"}`],
    ["due", at(job.due_at)],
    ["started", at(job.started_at)],
    ["ended", at(job.ended_at)],
    ["ran for", job.ended_at && job.started_at ? duration(job.ended_at - job.started_at) : null],
    ["worker program", job.worker],
    ["deadline", at(options.deadline)],
    ["timeout", options.timeout === null ? null : duration(options.timeout)],
    ["unique key", options.unique],
    ["kept", options.keep === null ? "until it is forgotten" : `${duration(options.keep)} after its end`],
  ].filter(([, value]) => value !== null && value !== "");
  const list = find("facts");
  while (list.children.length > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value], index) => {
    let entry = list.children[index];
    if (!entry) {
      entry = document.createElement("div");
      entry.append(document.createElement("dt"), document.createElement("dd"));
      list.append(entry);
    }
    text(entry.children[0], name);
    text(entry.children[1], value);
  });
}

const at = (seconds) => (seconds === null ? null : `${new Date(seconds * 1000).toLocaleDateString()} ${time(seconds)}`);

function showText(name, cut) {
  if (!cut) return;
  const left = cut.characters - cut.text.length;
  text(find(name), left > 0 ? `${cut.text}\n… (${whole.format(left)} more characters)` : cut.text);
}

function showAttempts(job) {
  text(find("attempts-count"), job.history.length ? "" : "none has ended");
  find("attempts-table").hidden = job.history.length === 0;
  const body = find("attempts");
  while (body.rows.length > job.history.length) body.lastElementChild.remove();
  job.history.forEach((attempt, index) => {
    const row = body.rows[index] ?? body.appendChild(newRow(["", "", "number", "", "wide"],
      ["Started", "Outcome", "took", "Worker program", "Error"]));
    cells(row, [at(attempt.started_at), attempt.outcome, duration(attempt.ended_at - attempt.started_at), attempt.worker,
      attempt.failure ? `${attempt.failure.type}: ${attempt.failure.message}` : ""]);
  });
}

// --- log records ---

async function showLogs(job) {
  text(find("logs-count"), job.log_count ? whole.format(job.log_count) : "none");
  if (!shown) first = shown = Math.max(job.log_count - LINES, 0);
  find("earlier").hidden = first === 0;
  while (shown < job.log_count) {
    const { lines } = await ask("logs", { id: job.id, start: shown });
    if (job.id !== id || !lines.length) return;
    find("logs").append(...lines.map(newLine));
    shown += lines.length;
  }
}

async function earlier() {
  const start = Math.max(first - LINES, 0);
  const { lines } = await ask("logs", { id, start });
  find("logs").prepend(...lines.slice(0, first - start).map(newLine));
  first = start;
  find("earlier").hidden = first === 0;
}

function newLine(line) {
  const item = document.createElement("li");
  const when = Object.assign(document.createElement("span"), { className: "soft", textContent: `${time(line.at)} ${line.level}` });
  item.append(when, line.message);
  item.dataset.kind = line.is_bad ? "bad" : "";
  return item;
}

find("earlier").addEventListener("click", earlier);
find("job-close").addEventListener("click", () => find("job").close());
find("job").addEventListener("close", () => {
  id = null;
  clearTimeout(timer);
});
for (const button of find("job").querySelectorAll("[data-action]")) {
  button.addEventListener("click", async () => {
    await act(button.dataset.action, [id], `job ${id}`, find("job-said"));
    if (id) await look();
  });
}
