// A second look: rows on which annotators differ, flagged ones, and labels that are probably wrong.

import * as classes from "./classes.js";
import { $, Failure, count, element, inquire, newOrigin, noTrouble, number, post, say, show, showRow, trouble } from "./common.js";

const NOBODY = "[skip]"; // in place of a class: nobody can tell

let project = null;
let items = [];
let known = [];
let at = 0;
let busy = false;
let pending = null;

export async function start(found) {
  project = found;
  for (const id of ["undo", "flag"]) show(id, false);
  show("back", true);
  $("skip-word").textContent = "Later";
  $("skip-key").textContent = "→";
  show("nobody", true);
  show("label-link", true);
  show("new-class", project.new_classes);
  classes.onPick(decide);
  await load();
}

async function load() {
  try {
    const found = await post("review");
    noTrouble();
    [items, known, at] = [found.items.map((item) => ({ ...item, decided: null })), found.classes, 0];
    render();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    trouble(error.message, load);
  }
}

function render() {
  const item = items[at];
  show("work", Boolean(item));
  show("pause", !item);
  for (const id of ["train", "finish", "pause-undo"]) show(id, false);
  show("how-far", items.length > 0);
  const decided = items.filter((one) => one.decided !== null).length;
  $("bar").value = items.length ? decided / items.length : 0;
  $("round").textContent = `Second look: ${number(decided)} of ${number(items.length)} decided`;
  $("plan").textContent = item ? `row ${number(at + 1)}` : "";
  if (!item) {
    const left = items.length - decided;
    $("pause-title").textContent = items.length ? (left ? `${count(left, "row")} left for later` : "All decided") : "Nothing to look at again";
    $("pause-text").textContent = left
      ? "Press ← to go back to them."
      : "Rows appear here when annotators differ, when somebody flags one, and when `svp label review` finds labels that are probably wrong.";
    return;
  }
  doubt(item);
  const marks = new Map();
  if (item.suggested) marks.set(item.suggested, { text: "suggested", spoken: "suggested" });
  if (item.given) marks.set(item.given, { text: "given", spoken: "the label that was given" });
  for (const vote of item.votes) {
    if (vote.label !== null && !marks.has(vote.label)) marks.set(vote.label, { text: vote.annotator, spoken: `given by ${vote.annotator}` });
  }
  classes.setClasses(known, marks, { repeat: true });
  choose(item.decided);
  showRow(item);
}

function doubt(item) {
  const said = item.votes.map((vote) => {
    const what = vote.kind === "label" ? vote.label : vote.kind === "skip" ? "skipped it" : "flagged it";
    const line = element("li", { dir: "auto" }, element("b", { textContent: vote.annotator }), `: ${what}`);
    if (vote.note) line.append(element("span", { className: "soft", textContent: ` (${vote.note})` }));
    return line;
  });
  const labels = [item.given && `given: ${item.given}`, item.suggested && `suggested: ${item.suggested}`].filter(Boolean);
  const first = item.reason.charAt(0).toUpperCase() + item.reason.slice(1);
  $("doubt").replaceChildren(element("p", { textContent: [first, ...labels].join(" · ") }), ...(said.length ? [element("ul", {}, ...said)] : []));
  show("doubt", true);
}

function choose(label) {
  classes.choose(label);
  $("nobody").classList.toggle("chosen", label === NOBODY);
}

function decide(label) {
  const item = items[at];
  if (!item || busy) return;
  if (pending) {
    say("The decision before is not saved yet: try that again first.");
    return;
  }
  pending = { id: item.id, label, seen: item.decided ?? "", source: item.source, origin: newOrigin() };
  send();
}

async function send() {
  if (busy) return;
  busy = true;
  choose(pending.label);
  try {
    const found = await post("decide", pending);
    known = found.classes;
    items[at].decided = pending.label;
    say(pending.label === NOBODY ? "Decided: nobody can tell." : `Decided: ${pending.label}.`);
    pending = null;
    noTrouble();
    step(1);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.mayPass) trouble(`Not saved: ${error.message}`, send);
    else {
      pending = null;
      trouble(`${error.message}.`, load);
    }
  } finally {
    busy = false;
  }
}

function step(by) {
  if (busy && by < 0) return;
  at = Math.min(Math.max(at + by, 0), items.length);
  render();
}

async function newClass() {
  if (!items[at] || pending || busy || !project.new_classes) return;
  const label = await inquire({ title: "New class", text: "It is a class from now on, for everybody.", yes: "Decide on this class", value: "" });
  if (label) decide(label.replace(/\s+/g, " "));
}

export function key(event) {
  const item = items[at];
  const name = event.key.toLowerCase();
  const label = item ? classes.ofKey(event.key) : null;
  if (label !== null) decide(label);
  else if (name === "k" && item?.given) decide(item.given);
  else if (name === "y" && item?.suggested) decide(item.suggested);
  else if (name === "s" && item) decide(NOBODY);
  else if (name === "arrowright") { if (!pending) step(1); }
  else if (name === "u" || name === "arrowleft") { if (!pending) step(-1); }
  else if (name === "n" && project.new_classes) newClass();
  else if (name === "/") return Boolean(item) && classes.openSearch();
  else return false;
  return true;
}

export const undo = () => { if (!pending) step(-1); };

export function listen() {
  $("skip").addEventListener("click", () => { if (!pending) step(1); });
  $("nobody").addEventListener("click", () => decide(NOBODY));
  $("back").addEventListener("click", undo);
  $("new-class").addEventListener("click", newClass);
}
