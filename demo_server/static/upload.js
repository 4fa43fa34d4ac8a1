// A file of the visitor: a picture comes back as a thumbnail, a table as a summary.

import { bytes, duration, find, reason, text, whole } from "./text.js";

export async function send(file) {
  const isTable = /\.csv$/i.test(file.name) || file.type.startsWith("text/");
  const path = isTable ? "csv" : `thumbnail?size=${find("size").value || 240}`;
  const size = bytes(file.size);
  text("upload-status", `Sending ${file.name}, ${size}.`);
  const from = performance.now();
  try {
    const form = new FormData();
    form.append("file", file);
    const response = await fetch(path, { method: "POST", body: form });
    if (!response.ok) throw new Error((await response.json()).detail);
    find("upload-result").replaceChildren(
      isTable ? summary(await response.json()) : await picture(response, file.name));
    text("upload-status", `${file.name}, ${size}: answered after ${duration(performance.now() - from)}.`);
  } catch (error) {
    find("upload-result").replaceChildren();
    text("upload-status", `${file.name}: ${reason(error)}`);
  }
}

async function picture(response, name) {
  const image = new Image();
  image.alt = `Thumbnail of ${name}`;
  image.src = URL.createObjectURL(await response.blob());
  await image.decode();
  URL.revokeObjectURL(image.src);
  return image;
}

function summary(told) {
  const keys = ["name", "type", "count", "distinct", "min", "max", "mean"];
  const table = document.createElement("table");
  table.createCaption().textContent = `${whole.format(told.rows)} rows`;
  const head = table.createTHead().insertRow();
  for (const key of keys) head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: key }));
  const body = table.createTBody();
  for (const column of told.columns) {
    const row = body.insertRow();
    for (const key of keys) {
      const value = column[key] ?? "–";
      const isExact = typeof value !== "number" || Number.isInteger(value);
      row.insertCell().textContent = isExact ? value : value.toPrecision(6);
    }
  }
  return table;
}

export function sample() {
  const rows = ["city,day,visitors,share"];
  for (let row = 0; row < 50_000; row += 1) {
    rows.push(`${["Lima", "Oslo", "Pune"][row % 3]},${(row % 365) + 1},${(row * 7919) % 1000},${(row % 97) / 97}`);
  }
  return new File([rows.join("\n")], "sample.csv", { type: "text/csv" });
}
