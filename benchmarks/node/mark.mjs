// What BullMQ's workers run for benchmarks/jobs.py; see benchmarks/queues/marks.py.
import { openSync, writeSync } from "node:fs";
import { burn } from "./burn.mjs";

export const SIZE = 24;
let file;

// Seconds since the epoch; `Date.now` has only milliseconds.
export const wall = () => (performance.timeOrigin + performance.now()) / 1e3;

export default async function mark({ data: { number, loops } }) {
  const began = wall();
  burn(loops);
  file ??= openSync(process.env.BENCHMARK_MARKS, "a");
  const line = Buffer.alloc(SIZE);
  line.writeBigInt64LE(BigInt(number), 0);
  line.writeDoubleLE(began, 8);
  line.writeDoubleLE(wall(), 16);
  writeSync(file, line);
}
