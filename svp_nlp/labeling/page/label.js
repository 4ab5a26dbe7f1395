// Labelling: one text, one answer, and the next text when the answer is on disk.

import * as classes from "./classes.js";
import { $, Failure, count, duration, inquire, newOrigin, noTrouble, number, ofBrowser, ofTab, post, say, show, showRow, trouble, who } from "./common.js";

const CALM_S = 10;
const TRAINING_S = 1;

let project = null;
let row = null;
let state = null;
let pending = null; // the answer that is being saved, or could not be
let busy = false;
let wanted = false; // suggestions
let timer = 0;
let lost = false;

export async function start(found) {
  project = found;
  const kept = ofBrowser.get("suggestions");
  wanted = kept === null ? project.suggestions : kept === "yes";
  $("suggestions").checked = wanted;
  show("new-class", project.new_classes);
  classes.onPick((label) => give("label", label));
  pending = JSON.parse(ofTab.get("pending") ?? "null");
  if (pending) await send(); else await next();
  look();
}

export async function next() {
  await during(async () => take(await post("next")), next);
}

// Do something with the server, one thing at a time; what may pass is offered again.
async function during(work, again) {
  if (busy) return;
  busy = true;
  document.body.classList.add("saving");
  try {
    await work();
    lost = false;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    trouble(error.message, error.mayPass ? again : null);
  } finally {
    busy = false;
    document.body.classList.remove("saving");
  }
}

function take(found) {
  const before = row?.id;
  state = found;
  row = found.row;
  noTrouble();
  progress();
  show("work", row !== null);
  show("pause", row === null);
  if (row === null) {
    pause();
    if (before !== undefined) $("pause").focus({ preventScroll: true });
    return;
  }
  dress();
  if (row.id !== before) showRow(row);
  classes.choose(null);
}

function dress() {
  show("suggestions-switch", row.suggestions.length > 0);
  const marks = new Map();
  if (wanted) {
    for (const [label, share] of row.suggestions) {
      const percent = Math.round(100 * share);
      if (percent > 0) marks.set(label, { text: `${percent} %`, spoken: `suggested with ${percent} percent`, percent });
    }
  }
  classes.setClasses(state.classes, marks, { repeat: true });
}

function give(kind, label = null, note = "") {
  if (!row || busy) return;
  if (pending) {
    say("The answer before is not saved yet: try that again first.");
    return;
  }
  // With the name: it stays the answer of who gave it, whoever has the page when it can be saved.
  pending = { annotator: who(), id: row.id, kind, label, note, origin: newOrigin() };
  ofTab.set("pending", JSON.stringify(pending));
  send();
}

async function send() {
  classes.choose(pending.label);
  const settled = () => {
    pending = null;
    ofTab.set("pending", null);
    classes.choose(null);
  };
  await during(async () => {
    try {
      const found = await post("answer", pending);
      say(`Saved: ${pending.kind === "label" ? pending.label : pending.kind === "skip" ? "skipped" : "flagged"}.`);
      settled();
      take(found);
    } catch (error) {
      if (!(error instanceof Failure) || error.mayPass) {
        if (error instanceof Failure) error.message = `Not saved: ${error.message}`;
        throw error;
      }
      settled();
      say("");
      if (error.status !== 409) throw error;
      take(await post("next"));
      say(`${error.message}. Here is the next one.`);
    }
  }, send);
}

async function undo() {
  if (pending || busy) return;
  const origin = newOrigin();
  const again = () => during(async () => {
    try {
      take(await post("undo", { origin }));
      say("The last answer was taken back.");
    } catch (error) {
      if (!(error instanceof Failure) || error.status !== 409) throw error;
      say("There is nothing to undo.");
    }
  }, again);
  await again();
}

async function flag() {
  if (!row || pending || busy) return;
  const note = await inquire({ title: "Flag this row", text: "Somebody will look at it. What is odd about it? (may be left empty)", yes: "Flag", value: "" });
  if (note !== null) give("flag", null, note);
}

async function newClass() {
  if (!row || pending || busy || !project.new_classes) return;
  const label = await inquire({ title: "New class", text: "It is a class from now on, for everybody.", yes: "Give this class", value: "" });
  if (label) give("label", label.replace(/\s+/g, " "));
}

async function finish() {
  $("help").close();
  const sure = await inquire({
    title: "Finish labelling?",
    text: "No more rows will be asked for. The final model is trained on what has been labelled so far; that can take long.",
    yes: "Finish",
  });
  if (sure !== null) await during(async () => follow(await post("finish")), finish);
}

async function train() {
  $("help").close();
  await during(async () => follow(await post("train")), train);
}

function progress() {
  const at = state.progress;
  show("how-far", at.requested > 0);
  if (!at.requested) return;
  $("bar").value = at.returned / at.requested;
  $("round").textContent = `${at.part === "test" ? "Test set" : `Round ${at.round}`}: ${number(at.returned)} of ${number(at.requested)}`;
  $("plan").textContent = at.planned ? `${number(at.labelled)} of ${number(at.planned)} planned labels` : "";
  const pace = at.seconds_per_answer;
  const left = at.seconds_left ? `, about ${duration(at.seconds_left)} left` : "";
  $("pace").textContent = pace === null ? "" : `${number(Math.max(1, Math.round(60 / Math.max(pace, 0.05))))} a minute${left}`;
  $("people").textContent = at.others.length ? `with ${at.others.join(", ")}` : "";
  const second = at.conflicts + at.flagged;
  show("review-link", true);
  $("review-count").textContent = second || "";
  show("review-count", second > 0);
}

// Nothing to label: say why, and what can be done.
function pause() {
  const { training, why_empty: why, progress: at } = state;
  const running = training.state === "running";
  const done = training.state === "finished" && why === "full";
  const titles = {
    full: at.part === "test" ? "The test set is labelled" : `Round ${at.round} is full`,
    conflicts: "Only rows on which you differ are left",
    others: "Nothing for you at the moment",
  };
  const texts = {
    full: `All ${count(at.requested ?? 0, "row")} have an answer. The next step trains the model with them and picks the rows that it can learn most from.`,
    conflicts: `${count(at.conflicts ?? 0, "row")} got different labels, and somebody has to decide.`,
    others: "The rows that are left are on the screens of others, or need the answer of somebody else. This page looks again by itself.",
  };
  $("pause-title").textContent = running ? "Training" : done ? "Done" : titles[why];
  $("pause-text").textContent = running ? "New rows appear here by themselves." : done ? ["The models are trained.", state.stopped || "All is labelled."].join(" ") : texts[why];
  if (!running && !done && training.message) $("pause-text").textContent += `\n\n${training.state === "failed" ? "The last try failed: " : "The last try said: "}${training.message}`;
  show("training", running);
  $("training-text").textContent = `${duration(training.seconds)}${training.lines.length ? ` · ${training.lines.at(-1)}` : ""}`;
  $("training-lines").textContent = training.lines.join("\n");
  show("train", !running && !done);
  $("train").classList.toggle("strong", why === "full");
  $("train").textContent = training.state === "failed" ? "Try again" : "Train and continue";
  show("report", done && training.report);
  show("pause-review", at.conflicts + at.flagged > 0 && !running);
  show("pause-undo", !running && at.mine > 0);
  show("finish", !running && !done && !state.finishing);
}

function follow(found) {
  state = found;
  progress();
  if (row === null) pause();
  else if (found.training.state === "running") say("Training has begun; new rows come by themselves.");
  look();
}

// Look again now and then: a sign of life, what others did, and whether there are new rows.
function look() {
  clearTimeout(timer);
  const soon = state?.training?.state === "running";
  timer = setTimeout(async () => {
    if (!busy && !pending) await glance();
    look();
  }, 1000 * (soon ? TRAINING_S : CALM_S));
}

async function glance() {
  const before = row?.id ?? "";
  try {
    const found = await post("state", { id: before });
    if (busy || pending || (row?.id ?? "") !== before) return; // somebody was quicker
    if (lost || !state) noTrouble();
    lost = false;
    if (row === null || found.is_answered) {
      await next();
      if (found.is_answered) say("The row before was answered elsewhere.");
      return;
    }
    const isNew = found.classes.length !== state.classes.length;
    const hasEnded = state.training.state === "running" && found.training.state !== "running";
    state = { ...found, row };
    progress();
    if (hasEnded) say(`The training has ended. ${found.training.message}`);
    if (isNew && document.activeElement !== $("search")) dress();
  } catch (error) {
    if (!(error instanceof Failure) || busy || pending) return;
    lost = true;
    trouble(error.message, glance);
  }
}

export function key(event) {
  const name = event.key.toLowerCase();
  const label = row ? classes.ofKey(event.key) : null;
  if (label !== null) give("label", label);
  else if (name === "s") give("skip");
  else if (name === "f") flag();
  else if (name === "u") undo();
  else if (name === "n" && project.new_classes) newClass();
  else if (name === "/") return row !== null && classes.openSearch();
  else return false;
  return true;
}

export { undo };

$("skip").addEventListener("click", () => give("skip"));
$("flag").addEventListener("click", flag);
$("undo").addEventListener("click", undo);
$("pause-undo").addEventListener("click", undo);
$("new-class").addEventListener("click", newClass);
$("train").addEventListener("click", train);
$("train-early").addEventListener("click", train);
$("finish").addEventListener("click", finish);
$("finish-early").addEventListener("click", finish);
$("suggestions").addEventListener("change", (event) => {
  wanted = event.target.checked;
  ofBrowser.set("suggestions", wanted ? "yes" : "no");
  if (row) dress();
  event.target.blur();
});
