// What part of it is shown, and in which order: kept in the address, so that it can be sent to
// somebody and survives a reload.

import { ordered, sortingHeads } from "./text.js";

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

export const sorted = (items, name, keys) => ordered(items, keys, view[name]);

export function sortable(table, name) {
  onChange(sortingHeads(table, () => view[name], (by) => change({ [name]: by })));
}
