// What node-cron's background task runs each second: as long as the same work of Python takes.
import { burn } from "./burn.mjs";

/** Compute; return how many ms after its fire time it had begun. */
export function task(context) {
  // The task is told nothing else of when it was due: fire times are whole seconds.
  const late = Date.now() % 1000;
  burn(Number(process.env.LOOPS));
  return late;
}
