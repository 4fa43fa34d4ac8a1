// How numbers are written, and how texts reach the page: by textContent only. The server forbids
// anything else (see HEADERS in offload/dashboard/_answers.py).

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
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
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
  // To move an element takes its focus; what has gone leaves it to what it was in.
  if (focused && focused !== document.activeElement) {
    (focused.isConnected ? focused : parent.closest("[tabindex]") ?? parent).focus({ preventScroll: true });
  }
}

// Removes a row later than `keyed` would; a focus in it goes to what it was in.
export function removeRow(row) {
  const box = row.contains(document.activeElement) ? row.closest("[tabindex]") : null;
  row.remove();
  box?.focus({ preventScroll: true });
}

export function cells(row, values) {
  values.forEach((value, index) => text(row.cells[index], value));
}

// labels: what each cell is, for narrow screens, where a row is a block of its own. With roles, since
// a table that is not laid out as one is none to some screen readers.
export function newRow(classes, labels = []) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  classes.forEach((name, index) => {
    const cell = row.insertCell();
    cell.setAttribute("role", "cell");
    if (name) cell.className = name;
    if (labels[index]) cell.dataset.label = labels[index];
  });
  return row;
}

// A bar with a number, for what a function has told of itself: [done, total or null], or null.
export function progress(label) {
  const box = Object.assign(document.createElement("span"), { className: "progress" });
  const bar = Object.assign(document.createElement("progress"), { max: 1 });
  bar.setAttribute("aria-label", label);
  box.append(bar, document.createElement("span"));
  box.hidden = true;
  return box;
}

export function showProgress(box, told) {
  box.hidden = told === null;
  if (told === null) return;
  const [done, total] = told;
  const [bar, words] = box.children;
  bar.hidden = !total;
  if (total) bar.value = Math.min(Math.max(done / total, 0), 1);
  text(words, total ? `${whole.format(done)} of ${whole.format(total)}` : whole.format(done));
}

// keys: for each column that can be sorted by, what it is sorted by; by: its name, "-" in front if
// downwards, or "" for the order that there is.
export function ordered(items, keys, by) {
  const column = by.replace(/^-/, "");
  if (!Object.hasOwn(keys, column)) return items;
  const key = keys[column];
  const sign = by.startsWith("-") ? -1 : 1;
  return items.slice().sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    // What has no value comes last, whichever way.
    if (one === null || other === null) return (one === null) - (other === null);
    return sign * (typeof one === "number" ? one - other : one.localeCompare(other));
  });
}

// Gives the headings of a table buttons to sort by: numbers downwards first, then up, then as it was.
// `chosen` tells by what it is sorted, `choose` is told what somebody wants. Returns what shows it.
export function sortingHeads(table, chosen, choose) {
  const heads = table.querySelectorAll("th[data-sort]");
  const mark = () => {
    for (const head of heads) {
      if (chosen() === head.dataset.sort) head.setAttribute("aria-sort", "ascending");
      else if (chosen() === `-${head.dataset.sort}`) head.setAttribute("aria-sort", "descending");
      else head.removeAttribute("aria-sort");
    }
  };
  for (const head of heads) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent.trim() });
    button.addEventListener("click", () => {
      const column = head.dataset.sort;
      const order = head.classList.contains("number") ? [`-${column}`, column, ""] : [column, `-${column}`, ""];
      choose(order[(order.indexOf(chosen()) + 1) % order.length]);
      mark();
    });
    head.replaceChildren(button);
  }
  mark();
  return mark;
}
