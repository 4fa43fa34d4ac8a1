// One short round by itself, for a visitor who only looks: inline, then offloaded.

import { duration, find, sleep, text } from "./text.js";

// Long enough to see a calm line first, and to touch something.
const QUIET = 4000;
// Between the two, so that the line is calm again.
const PAUSE = 1500;
const COUNT = 3;
const N = 300_000;
// The last two are all that some screen readers bring about.
const TOUCHES = ["pointerdown", "keydown", "wheel", "touchstart", "click", "change"];

// Plays it: `fire` runs one way and returns what it did to /fast, or nothing.
export async function compare(fire, { byItself = false, isStill = () => true } = {}) {
  const told = [];
  const n = Math.min(N, Number(document.documentElement.dataset.maxN));
  for (const way of ["inline", "offloaded"]) {
    if (!isStill()) return;
    const run = await fire(way, { count: COUNT, n, byItself });
    if (run?.worst === undefined) return;
    told.push(run);
    await sleep(PAUSE);
  }
  const [inline, offloaded] = told;
  const rest = told.some((run) => run.isCut)
    ? " Not all of it was done: other programs keep this machine busy." : "";
  text("status", `The same work twice. Inline, an answer of /fast took up to ${duration(inline.worst)}; ` +
    `offloaded, up to ${duration(offloaded.worst)}.${rest}`);
}

// Plays it once, unless somebody touches something, wants no motion, looks elsewhere or is not alone.
export async function playByItself({ fire, stop, isIdle, ask }) {
  // For programs that look at the page: what became of it.
  const become = (state) => { find("status").dataset.round = state; };
  let isTouched = false;
  let touched;
  const touch = new Promise((resolve) => { touched = resolve; });
  const take = (event) => {
    isTouched = true;
    touched();
    // To scroll is no wish to end what is seen.
    if (event.type !== "wheel" && find("status").dataset.round === "plays") stop();
  };
  for (const name of TOUCHES) addEventListener(name, take, { capture: true, passive: true });
  const isStill = () =>
    !isTouched && !document.hidden && !matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (isStill()) {
    become("soon");
    text("status", "Nothing runs. In a moment a short round plays by itself, unless you touch something.");
    await Promise.race([sleep(QUIET), touch]);
  }
  if (isStill() && isIdle() && (await ask()) && isStill()) {
    become("plays");
    await compare(fire, { byItself: true, isStill });
    become("played");
  } else {
    if (isIdle()) text("status", "Nothing runs.");
    become("left out");
  }
  for (const name of TOUCHES) removeEventListener(name, take, { capture: true });
}
