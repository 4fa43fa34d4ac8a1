// What an operator asks for: with a question first where it cannot be taken back.

import { isSure, post } from "./asking.js";

const SURE = {
  cancel: ["Cancel the task of worker {pid}? Its caller gets an error; what it has done so far stays done.", "Cancel the task"],
  stop: ["Cancel this task of {function}? Its caller gets an error; what it has done so far stays done.", "Cancel the task"],
  drain: ["Drain pool {pool}? It refuses every new call until it is opened again.", "Drain the pool"],
};

// about: what goes into the question to the server, and into the one to the operator.
export async function act(action, pool, about = {}, said = undefined) {
  if (action in SURE) {
    const [question, label] = SURE[action];
    const known = { pool, ...about };
    if (!(await isSure(question.replace(/\{(\w+)\}/g, (_, name) => known[name]), label))) return false;
  }
  const { function: _, ...asked } = about;
  return post(`actions/${action}`, { pool, ...asked }, said);
}
