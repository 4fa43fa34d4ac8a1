// The background tasks of node-cron beside Express:
//
//     node cron.mjs PORT LOOPS
//
// The paths are those of benchmarks/ways_server.py: GET /fast; GET /fires?on=1 has cron-task.mjs, in
// a process that node-cron forks, compute so many steps each second; GET /starts answers by how many
// ms after their fire times these runs had begun.
import { fileURLToPath } from "node:url";

import express from "express";
import cron from "node-cron";

const [port, loops] = process.argv.slice(2);
process.env.LOOPS = loops;
const file = fileURLToPath(new URL("cron-task.mjs", import.meta.url));
const task = cron.createTask("* * * * * *", file, { noOverlap: true });
let starts = [];
task.on("execution:finished", (context) => starts.push(context.execution.result));

const app = express();
app.get("/fast", (request, response) => {
  response.type("text/plain").send("fast");
});
app.get("/fires", async (request, response) => {
  await (request.query.on === "1" ? task.start() : task.stop());
  response.type("text/plain").send("done");
});
app.get("/starts", (request, response) => {
  const told = starts;
  starts = [];
  response.json(told);
});
app.listen(Number(port), "127.0.0.1");
process.on("SIGTERM", async () => {
  await task.destroy();
  process.exit(0);
});
