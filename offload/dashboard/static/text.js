// How numbers are written, and how texts reach the page: by textContent only. The server forbids
// anything else (see _HEADERS in offload/dashboard/_app.py).

export const find = (id) => document.getElementById(id);
export const whole = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function part(element, name) {
  return element.querySelector(`[data-of="${name}"]`);
}

export function text(element, value) {
  // Only where it differs: what is written anew loses its selection and is read aloud anew.
  if (element.textContent !== String(value)) element.textContent = value;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.00095) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.00995) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(2)} s`;
  if (seconds < 99.5) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function share(fraction) {
  return fraction === null || fraction === undefined ? "–" : `${Math.round(Math.max(fraction, 0) * 100)} %`;
}

// PSS where it is known: workers share most of what a fork has given them.
export function memory(usage) {
  return bytes(usage.pss_bytes ?? usage.rss_bytes);
}

export function time(at) {
  return clock.format(new Date(at * 1000));
}

// Rows that stay what they are while their items change, so that focus and selection stay too.
// `make` returns a new element, `fill` writes an item into it, `leave` is for those that are gone.
export function keyed(parent, items, key, make, fill, leave = (element) => element.remove()) {
  const there = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  const wanted = new Set(items.map((item) => String(key(item))));
  const done = new Set();
  let before = null;
  for (const item of items) {
    const name = String(key(item));
    if (done.has(name)) continue;
    done.add(name);
    let element = there.get(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    // Only if others that are still there have changed places: to move an element takes its focus.
    let place = before ? before.nextElementSibling : parent.firstElementChild;
    while (place && place !== element && !wanted.has(place.dataset.key)) place = place.nextElementSibling;
    if (element !== place || !element.parentNode) parent.insertBefore(element, place);
    there.delete(name);
    fill(element, item);
    before = element;
  }
  for (const element of there.values()) leave(element);
}

export function cells(row, values) {
  values.forEach((value, index) => text(row.cells[index], value));
}

export function newRow(classes) {
  const row = document.createElement("tr");
  for (const name of classes) {
    const cell = row.insertCell();
    if (name) cell.className = name;
  }
  return row;
}
