// Begins: who labels, what about, and which keys mean what.

import { $, Failure, getProject, ofBrowser, setWho, show, trouble, who } from "./common.js";

const isReview = location.pathname.endsWith("/review");
document.body.classList.toggle("review", isReview);
const mode = await import(isReview ? "./review.js" : "./label.js");

function askName() {
  const dialog = $("name-dialog");
  $("name").value = who();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const name = $("name").value.trim();
      if (name) setWho(name);
      $("name-button").textContent = who();
      resolve(who());
    }, { once: true });
    dialog.showModal();
    $("name").select();
  });
}

function guidelines(open) {
  show("guidelines", open);
  $("guidelines-button").setAttribute("aria-expanded", String(open));
  ofBrowser.set("guidelines", open ? "open" : null);
}

async function begin() {
  let project;
  try {
    project = await getProject();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    trouble(error.message, begin);
    return;
  }
  show("trouble", false);
  document.title = project.name ? `${project.name} · labelling` : "Labelling";
  $("project").textContent = project.name || "Labelling";
  if (project.guidelines) {
    // Made by the server from Markdown: HTML in it is escaped there, and nothing that runs would be let in here.
    $("guidelines-text").innerHTML = project.guidelines;
    for (const link of $("guidelines-text").querySelectorAll("a")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
    show("guidelines-button", true);
    guidelines(ofBrowser.get("guidelines") === "open" && window.innerWidth > 900);
  }
  $("name-button").textContent = who();
  while (!who()) await askName();
  await mode.start(project);
}

document.addEventListener("keydown", (event) => {
  // A key that is held down would label texts that nobody has read.
  if (event.repeat || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=checkbox]), textarea")) return;
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey) {
    event.preventDefault();
    mode.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (mode.key(event)) event.preventDefault();
  else if (event.key === "?") $("help").showModal();
  else if (event.key.toLowerCase() === "g" && !$("guidelines-button").hidden) guidelines($("guidelines").hidden);
  else if (event.key === "Escape") guidelines(false);
});
$("help-button").addEventListener("click", () => $("help").showModal());
$("guidelines-button").addEventListener("click", () => guidelines($("guidelines").hidden));
$("guidelines-close").addEventListener("click", () => guidelines(false));
$("name-button").addEventListener("click", async () => {
  const before = who();
  if ((await askName()) !== before) location.reload();
});
mode.listen?.();
await begin();
