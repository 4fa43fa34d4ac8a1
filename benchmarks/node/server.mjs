// The systems of the reference articles, behind the same two paths as ours:
//
//     node server.mjs CONTENDER PORT WORKERS
//
//     express-inline                      the computation in the handler: what everybody warns of
//     express-worker-thread-per-request   a new worker_threads.Worker for each request, as many as
//                                         there are requests; WORKERS is not used
//     express-piscina                     piscina, WORKERS threads
//     express-workerpool                  workerpool, WORKERS threads
//
// GET /fast answers a few bytes, GET /heavy?n=120000000 computes n steps, about 200 ms on a
// fast machine (burn.mjs), and answers the result; GET /lag answers by how many ms the event loop was
// late since it was last asked, in whole milliseconds as Node's timers are. When it listens on 127.0.0.1:PORT (0: any) it
// prints the line "ready" and a line of JSON: contender, workers, port, and versions. SIGTERM ends
// it. Install with `npm ci` here: package-lock.json pins every package. Node 20 or newer.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";

import express from "express";

import { burn } from "./burn.mjs";

const DEFAULT_N = 120_000_000;

/** Return how a contender computes: (n) => number or a promise of it. */
async function computation(contender, workers) {
  const file = (name) => fileURLToPath(new URL(name, import.meta.url));
  switch (contender) {
    case "express-inline":
      return burn;
    case "express-worker-thread-per-request":
      return (n) =>
        new Promise((resolve, reject) => {
          const worker = new Worker(file("one-thread.mjs"), { workerData: { n } });
          worker.once("message", resolve);
          worker.once("error", reject);
          worker.once("exit", (code) => reject(new Error(`the thread ended with ${code}`)));
        });
    case "express-piscina": {
      const { Piscina } = await import("piscina");
      // As many at the start as at most, none that ends when idle: like every pool here.
      const pool = new Piscina({
        filename: file("burn.mjs"),
        minThreads: workers,
        maxThreads: workers,
      });
      return (n) => pool.run({ n });
    }
    case "express-workerpool": {
      const { default: workerpool } = await import("workerpool");
      const pool = workerpool.pool(file("workerpool-thread.mjs"), {
        minWorkers: workers,
        maxWorkers: workers,
        workerType: "thread",
      });
      return (n) => pool.exec("burn", [n]);
    }
    default:
      return null;
  }
}

/** Return the version of an installed package. */
function version(name) {
  // By the file: packages with "exports" do not let their package.json be required by name.
  const entry = createRequire(import.meta.url).resolve(name);
  const folder = entry.slice(0, entry.lastIndexOf(`node_modules/${name}/`));
  return JSON.parse(readFileSync(`${folder}node_modules/${name}/package.json`, "utf8")).version;
}

const [contender = "", port = "", count = ""] = process.argv.slice(2);
const workers = Number(count);
const compute = await computation(contender, workers);
if (compute === null || !/^\d+$/.test(port) || !(Number.isInteger(workers) && workers > 0)) {
  console.error("usage: node server.mjs CONTENDER PORT WORKERS (contenders: see the head of it)");
  process.exit(2);
}

// How late the event loop is, again and again, as benchmarks/server.py has it.
const EVERY_MS = 5;
let lags = [];
function watch() {
  const begin = performance.now();
  setTimeout(() => {
    lags.push(Math.max(performance.now() - begin - EVERY_MS, 0));
    watch();
  }, EVERY_MS);
}
watch();

const app = express();
app.get("/fast", (request, response) => {
  response.type("text/plain").send("fast");
});
app.get("/heavy", async (request, response) => {
  const n = Number(request.query.n ?? DEFAULT_N);
  if (!Number.isSafeInteger(n) || n < 0) {
    response.status(400).type("text/plain").send("n is a whole number, 0 or more");
    return;
  }
  response.type("text/plain").send(String(await compute(n)));
});

app.get("/lag", (request, response) => {
  const told = lags;
  lags = [];
  response.json(told.map((each) => Math.round(each * 1e3) / 1e3));
});

const server = app.listen(Number(port), "127.0.0.1", (error) => {
  if (error) {
    console.error(`cannot listen on port ${port}: ${error.message}`);
    process.exit(1);
  }
  const versions = { node: process.versions.node, v8: process.versions.v8 };
  for (const name of ["express", "piscina", "workerpool"]) {
    versions[name] = version(name);
  }
  const ready = { contender, workers, port: server.address().port, versions };
  process.stdout.write(`ready\n${JSON.stringify(ready)}\n`);
});
// At once: threads that compute end with the process.
process.on("SIGTERM", () => process.exit(0));
