// The heavy work: pure JavaScript, no allocation, nothing that an engine could leave out.
// Default export: what piscina calls in its threads.

/** Keep one core busy; return a number that depends on every step. */
export function burn(n) {
  let state = 1;
  for (let step = 0; step < n; step++) {
    // xorshift32: each step needs the one before, so that no step can be skipped.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
  }
  return state >>> 0;
}

export default ({ n }) => burn(n);
