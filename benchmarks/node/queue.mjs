// BullMQ for benchmarks/jobs.py: its producer, as benchmarks/queues/producer.py, or its worker.
//
//   BENCHMARK_STORE=redis://… BENCHMARK_MARKS=FILE node queue.mjs produce
//   … node queue.mjs work IN_FLIGHT          in this process
//   … node queue.mjs sandbox IN_FLIGHT       each in a process of its own
import { statSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Queue, QueueEvents, Worker } from "bullmq";
import mark, { SIZE, wall } from "./mark.mjs";

const [role, inFlight] = process.argv.slice(2);
const { hostname: host, port } = new URL(process.env.BENCHMARK_STORE);
const connection = { host, port: Number(port) };
const NAME = "benchmark";
const CHUNK = 500;
const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function marks() {
  return (statSync(process.env.BENCHMARK_MARKS, { throwIfNoEntry: false })?.size ?? 0) / SIZE;
}

async function many(queue, _, { count, loops, seconds }) {
  const begin = performance.now();
  let done = 0;
  while (done < count && (done === 0 || performance.now() < begin + seconds * 1e3)) {
    const end = Math.min(done + CHUNK, count);
    const jobs = [];
    for (; done < end; done++) jobs.push({ name: "mark", data: { number: done, loops } });
    await queue.addBulk(jobs);
  }
  return { count: done, per_second: (done / (performance.now() - begin)) * 1e3 };
}

async function one(queue, events, { first, count }) {
  const found = { enqueue_ms: [], result_ms: [], begun: [] };
  for (let number = first; number < first + count; number++) {
    await rest(5);
    found.begun.push(wall());
    const begin = performance.now();
    const job = await queue.add("mark", { number, loops: 0 });
    found.enqueue_ms.push(performance.now() - begin);
    await job.waitUntilFinished(events, 60_000);
    found.result_ms.push(performance.now() - begin);
    while (marks() <= number) await rest(1);
  }
  return found;
}

if (role === "produce") {
  const queue = new Queue(NAME, { connection });
  const events = new QueueEvents(NAME, { connection });
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady()]);
  process.stdout.write("{}\n");
  for await (const line of createInterface({ input: process.stdin })) {
    const told = JSON.parse(line);
    const found = await { many, one }[told.do](queue, events, told);
    process.stdout.write(JSON.stringify(found) + "\n");
  }
  await Promise.all([queue.close(), events.close()]);
} else {
  const processor =
    role === "sandbox" ? fileURLToPath(new URL("./mark.mjs", import.meta.url)) : mark;
  new Worker(NAME, processor, { connection, concurrency: Number(inFlight) });
}
