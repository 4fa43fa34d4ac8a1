// How numbers are written, and how texts reach the page.
// By textContent only; the server forbids anything else (see demo_server/page.py).

export const find = (id) => document.getElementById(id);
export const whole = new Intl.NumberFormat("en");

export function text(id, value) {
  const element = typeof id === "string" ? find(id) : id;
  // Only where it differs: what is written anew is read anew by a screen reader.
  if (element.textContent !== String(value)) element.textContent = value;
}

// What `fetch` raises where nobody answers has a text of the browser's own.
export const reason = (error) => (error instanceof TypeError ? "the server does not answer" : error.message);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0)));

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  return `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;
}
