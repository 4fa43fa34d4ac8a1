// What every page does the same way: asks an operator, asks the server to act, shows the connection.

import { find, text } from "./text.js";

// Returns whether it was done; `said` is told what the server says of it.
export async function post(path, question, said = find("said")) {
  try {
    const response = await fetch(`${path}?${new URLSearchParams(question)}`,
      { method: "POST", headers: { "X-Offload-Action": "1" } });
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    text(said, isJson ? (await response.json()).text : await response.text());
    return response.ok;
  } catch {
    text(said, "The server does not answer; whether it was done is not known.");
    return false;
  }
}

// label: of the button that says yes.
export function isSure(question, label) {
  const dialog = find("sure");
  text(find("sure-text"), question);
  text(find("sure-yes"), label);
  dialog.returnValue = "";
  dialog.showModal();
  // On the harmless one: a hasty Enter changes nothing.
  find("sure-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

export function connection(state, words) {
  find("connection").dataset.state = state;
  text(find("connection"), words);
  document.body.classList.toggle("stale", state === "lost");
}

find("sure-no").addEventListener("click", () => find("sure").close(""));
find("sure-yes").addEventListener("click", () => find("sure").close("yes"));
