// Heavy work as jobs: enqueued one by one, followed by server-sent events, run by another program.

import { duration, find, reason, sleep, text, whole } from "./text.js";

const POLL = 500;
// How many are followed at once: a browser opens six connections to a host, and others need some.
const FOLLOWED = 2;
const SHOWN = 8;
const OVER = new Set(["completed", "failed", "cancelled"]);

// Runs `count` jobs; tells `run` of each that ends, and returns when all have ended.
export async function runJobs(run, n) {
  const jobs = [];
  find("jobs").replaceChildren();
  for (let number = 1; number <= run.count && !run.stop.signal.aborted; number += 1) {
    const answer = await fetch(`heavy/job?n=${n}`, { method: "POST" });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    jobs.push({ number, ...(await answer.json()), state: "waiting", crashes: 0 });
    show(jobs);
  }
  const waiting = jobs.slice();
  const follow = async () => {
    for (let job = waiting.shift(); job; job = waiting.shift()) {
      await followed(job, run.stop.signal, () => show(jobs));
      if (job.state === "completed") {
        run.done += 1;
        run.ran.push(job.result.seconds * 1000);
      } else if (!run.stop.signal.aborted) {
        run.failed += 1;
        run.error = job.error ?? job.state;
      }
    }
  };
  await Promise.all(Array.from({ length: FOLLOWED }, follow));
  return jobs;
}

function followed(job, signal, changed) {
  return new Promise((resolve) => {
    // Comes back by itself when the connection is lost; the state is then told anew.
    const source = new EventSource(job.url.slice(1) + "/events");
    const end = () => {
      source.close();
      resolve();
    };
    const told = (event) => {
      Object.assign(job, JSON.parse(event.data));
      changed();
      if (OVER.has(job.state)) end();
    };
    for (const state of ["waiting", "delayed", "active", ...OVER]) source.addEventListener(state, told);
    source.addEventListener("error", () => {
      // Refused, and not only lost: a server that has begun anew knows nothing of it.
      if (source.readyState !== EventSource.CLOSED) return;
      Object.assign(job, { state: "failed", error: "the server does not know the job any more" });
      changed();
      end();
    });
    const cancel = async () => {
      // Stopped by hand: what waits never runs, of what runs the process is ended.
      await fetch(job.url.slice(1), { method: "DELETE" }).catch(() => undefined);
    };
    if (signal.aborted) cancel();
    else signal.addEventListener("abort", cancel, { once: true });
  });
}

function show(jobs) {
  const list = find("jobs");
  // Those that came back, then those that run or wait, then the last that have ended.
  const rank = (job) => (job.crashes ? 0 : OVER.has(job.state) ? 2 : 1);
  const shown = jobs.toSorted((a, b) => rank(a) - rank(b) || (rank(a) === 2 ? b.number - a.number : a.number - b.number))
    .slice(0, SHOWN).sort((a, b) => a.number - b.number);
  const rows = new Map([...list.children].map((row) => [row.dataset.job, row]));
  for (const job of shown) {
    const row = rows.get(String(job.number)) ?? newRow(job);
    rows.delete(String(job.number));
    list.append(row);
    row.dataset.state = job.state;
    row.dataset.crashes = job.crashes;
    const done = job.state === "completed" ? 1 : job.progress ? job.progress.done / job.progress.total : 0;
    row.querySelector("progress").value = done;
    const again = job.crashes ? ` — its program died, so it ${job.state === "waiting" ? "waits for" : "has"} another one` : "";
    text(row.querySelector(".state"), `${job.state}${job.state === "active" ? `, ${Math.floor(done * 100)} %` : ""}${again}`);
  }
  for (const row of rows.values()) row.remove();
  const counts = {};
  for (const job of jobs) counts[job.state] = (counts[job.state] ?? 0) + 1;
  text("jobs-count", Object.entries(counts).map(([state, count]) => `${whole.format(count)} ${state}`).join(", "));
}

function newRow(job) {
  const row = document.createElement("li");
  row.dataset.job = job.number;
  const label = document.createElement("span");
  label.textContent = `Job ${job.number}`;
  label.id = `job-${job.number}`;
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.setAttribute("aria-labelledby", label.id);
  const state = document.createElement("span");
  state.className = "state";
  row.append(label, bar, state);
  return row;
}

// --- the worker program ---

let killedAt;

export async function watchProgram(isVisible) {
  for (;;) {
    await isVisible();
    try {
      showProgram(await (await fetch("worker", { cache: "no-store" })).json());
    } catch {
      // The page says that there is no answer.
    }
    await sleep(POLL);
  }
}

function showProgram(program) {
  const isUp = program.pid !== null;
  const button = find("kill");
  button.setAttribute("aria-disabled", String(!isUp));
  text("program", isUp ? `process ${program.pid}` : "none; it has died, and another one is being started");
  find("program").dataset.state = isUp ? "up" : "dead";
  find("program").dataset.pid = program.pid ?? "";
  text("lease", duration(program.lease * 1000));
  if (isUp && killedAt && killedAt.pid !== program.pid) {
    text("kill-status", `Process ${killedAt.pid} was killed, and ${program.pid} has taken its place. ` +
      `What it ran begins again when its lease is over.`);
    killedAt = undefined;
  }
}

async function kill() {
  if (find("kill").getAttribute("aria-disabled") === "true") return;
  try {
    const answer = await fetch("worker/kill", { method: "POST", headers: { "X-Demo-Action": "1" } });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail);
    killedAt = { pid: told.killed };
    text("kill-status", `Process ${told.killed} was killed.`);
  } catch (error) {
    text("kill-status", reason(error));
  }
}

find("kill").addEventListener("click", kill);
