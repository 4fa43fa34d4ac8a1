// BullMQ's own programs, for tests: a command a run, what it found as one line of JSON.
//
//   produce PORT QUEUE NAME DATA OPTIONS   adds a job, and waits for its end
//   work PORT QUEUE COUNT                  runs so many jobs, and tells of each
//   list PORT QUEUE                        what bull-board shows of the queue
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages are where the test has installed them, which is not beside this file.
const require = createRequire(pathToFileURL(process.cwd() + "/program.mjs"));
const { Queue, QueueEvents, UnrecoverableError, Worker } = require("bullmq");

const [command, port, queueName, ...rest] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(port) };

function tell(value) {
  process.stdout.write(JSON.stringify(value) + "\n");
}

async function produce(name, data, options) {
  const events = new QueueEvents(queueName, { connection });
  await events.waitUntilReady();
  const heard = [];
  events.on("progress", ({ data }) => heard.push(data));
  const queue = new Queue(queueName, { connection });
  const job = await queue.add(name, JSON.parse(data), JSON.parse(options));
  tell({ id: job.id });
  let result, failure;
  try {
    result = await job.waitUntilFinished(events, 30000);
  } catch (error) {
    failure = error.message;
  }
  const found = await queue.getJob(job.id);
  const logs = found ? (await queue.getJobLogs(job.id)).logs : [];
  tell({ result, failure, heard, logs, state: found && (await found.getState()) });
  await queue.close();
  await events.close();
}

async function work(count) {
  let left = Number(count);
  const seen = [];
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const worker = new Worker(
    queueName,
    async (job) => {
      await job.log("from Node");
      await job.updateProgress({ percent: 50 });
      if (job.data.fails) throw new UnrecoverableError("not today");
      return { sum: job.data.numbers.reduce((one, other) => one + other, 0) };
    },
    { connection },
  );
  const told = (job, outcome) => {
    seen.push({ id: job.id, name: job.name, outcome, attempts: job.opts.attempts });
    if (--left === 0) end();
  };
  worker.on("completed", (job) => told(job, "completed"));
  worker.on("failed", (job) => told(job, "failed"));
  await ended;
  await worker.close();
  tell(seen);
}

async function list() {
  const { BullMQAdapter } = require("@bull-board/api/bullMQAdapter");
  const queue = new Queue(queueName, { connection });
  const adapter = new BullMQAdapter(queue);
  const counts = await adapter.getJobCounts();
  const states = ["waiting", "prioritized", "delayed", "active", "completed", "failed"];
  const jobs = {};
  for (const state of states) {
    jobs[state] = (await adapter.getJobs([state], 0, 100)).map((job) => job.toJSON());
  }
  tell({ counts, jobs });
  await queue.close();
}

await { produce: () => produce(...rest), work: () => work(...rest), list }[command]();
