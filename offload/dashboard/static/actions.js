// What an operator asks for: with a question first where it cannot be taken back.

import { find, text } from "./text.js";

const SURE = {
  cancel: ["Cancel the task of worker {pid}? Its caller gets an error; what it has done so far stays done.", "Cancel the task"],
  stop: ["Cancel this task of {function}? Its caller gets an error; what it has done so far stays done.", "Cancel the task"],
  drain: ["Drain pool {pool}? It refuses every new call until it is opened again.", "Drain the pool"],
};

// about: what goes into the question to the server, and into the one to the operator.
export async function act(action, pool, about = {}, said = find("said")) {
  if (!(await isSure(action, { pool, ...about }))) return false;
  const { function: _, ...asked } = about;
  const question = new URLSearchParams({ pool, ...asked });
  try {
    const response = await fetch(`actions/${action}?${question}`,
      { method: "POST", headers: { "X-Offload-Action": "1" } });
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    text(said, isJson ? (await response.json()).text : await response.text());
    return response.ok;
  } catch {
    text(said, "The server does not answer; whether it was done is not known.");
    return false;
  }
}

function isSure(action, about) {
  if (!(action in SURE)) return Promise.resolve(true);
  const [question, label] = SURE[action];
  const dialog = find("sure");
  text(find("sure-text"), question.replace(/\{(\w+)\}/g, (_, name) => about[name]));
  text(find("sure-yes"), label);
  dialog.returnValue = "";
  dialog.showModal();
  // On the harmless one: a hasty Enter changes nothing.
  find("sure-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

find("sure-no").addEventListener("click", () => find("sure").close(""));
find("sure-yes").addEventListener("click", () => find("sure").close("yes"));
