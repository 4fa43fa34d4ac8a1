// The thread of one request: does it, says the result, ends.
import { parentPort, workerData } from "node:worker_threads";

import { burn } from "./burn.mjs";

parentPort.postMessage(burn(workerData.n));
