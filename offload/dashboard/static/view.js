// What part of it is shown, and in which order: kept in the address, so that it can be sent to
// somebody and survives a reload.

const given = new URLSearchParams(location.search);
const changed = [];

// Of each table by name: the column that it is sorted by, "-" in front if downwards.
const SORTED = ["workers", "tasks", "functions"];

export const view = { q: given.get("q") ?? "", kind: given.get("kind") ?? "", span: given.get("span") ?? "" };
for (const name of SORTED) view[name] = given.get(name) ?? "";

export function onChange(callback) {
  changed.push(callback);
}

export function change(values) {
  Object.assign(view, values);
  const question = new URLSearchParams(Object.entries(view).filter(([, value]) => value)).toString();
  history.replaceState(null, "", question ? `?${question}` : location.pathname);
  for (const callback of changed) callback();
}

export function has(...texts) {
  const wanted = view.q.trim().toLowerCase();
  return !wanted || texts.some((text) => String(text ?? "").toLowerCase().includes(wanted));
}

// keys: for each column that can be sorted by, what it is sorted by.
export function sorted(items, name, keys) {
  const column = view[name].replace(/^-/, "");
  if (!Object.hasOwn(keys, column)) return items;
  const key = keys[column];
  const sign = view[name].startsWith("-") ? -1 : 1;
  return items.slice().sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    // What has no value comes last, whichever way.
    if (one === null || other === null) return (one === null) - (other === null);
    return sign * (typeof one === "number" ? one - other : one.localeCompare(other));
  });
}

// Gives the headings of a table buttons to sort by: numbers downwards first, then up, then as it was.
export function sortable(table, name) {
  const heads = table.querySelectorAll("th[data-sort]");
  for (const head of heads) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent.trim() });
    button.addEventListener("click", () => {
      const column = head.dataset.sort;
      const order = head.classList.contains("number") ? [`-${column}`, column, ""] : [column, `-${column}`, ""];
      change({ [name]: order[(order.indexOf(view[name]) + 1) % order.length] });
    });
    head.replaceChildren(button);
  }
  const mark = () => {
    for (const head of heads) {
      if (view[name] === head.dataset.sort) head.setAttribute("aria-sort", "ascending");
      else if (view[name] === `-${head.dataset.sort}`) head.setAttribute("aria-sort", "descending");
      else head.removeAttribute("aria-sort");
    }
  };
  onChange(mark);
  mark();
}
