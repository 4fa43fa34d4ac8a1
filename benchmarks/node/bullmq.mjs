// BullMQ on Node, for benchmarks/jobs_redis.py: one round of what is measured, as a line of JSON.
//
//   node bullmq.mjs PORT QUEUE JOBS IN_FLIGHT...
import { Queue, Worker } from "bullmq";

const [port, name, jobs, ...inFlight] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(port) };
const now = () => Number(process.hrtime.bigint()) / 1e6;

function median(values) {
  return values.sort((one, other) => one - other)[Math.floor(values.length / 2)];
}

async function enqueue(queue) {
  const times = [];
  for (let i = 0; i < 1000; i++) {
    const begin = now();
    await queue.add("shop:report", { month: "2026-11" });
    times.push(now() - begin);
  }
  await queue.obliterate({ force: true });
  return median(times);
}

async function pickUp(queue) {
  let begin, picked;
  const times = [];
  const worker = new Worker(name, async () => picked(), { connection });
  await worker.waitUntilReady();
  for (let i = 0; i < 200; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const arrived = new Promise((resolve) => (picked = resolve));
    begin = now();
    await queue.add("shop:report", { month: "2026-11" });
    await arrived;
    times.push(now() - begin);
  }
  await worker.close();
  await queue.obliterate({ force: true });
  return median(times);
}

async function throughput(queue, concurrency) {
  let left = Number(jobs);
  const data = { name: "shop:report", data: { month: "2026-11" } };
  for (let i = 0; i < left; i += 1000) await queue.addBulk(Array(1000).fill(data));
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const worker = new Worker(name, async () => {}, { connection, concurrency, autorun: false });
  worker.on("completed", () => --left === 0 && end());
  await worker.waitUntilReady();
  const begin = now();
  worker.run();
  await ended;
  const seconds = (now() - begin) / 1000;
  await worker.close();
  await queue.obliterate({ force: true });
  return Number(jobs) / seconds;
}

const queue = new Queue(name, { connection });
await queue.waitUntilReady();
const result = { enqueue_ms: await enqueue(queue), pick_up_ms: await pickUp(queue) };
for (const count of inFlight) result[`jobs_per_second_${count}`] = await throughput(queue, +count);
process.stdout.write(JSON.stringify(result) + "\n");
await queue.close();
