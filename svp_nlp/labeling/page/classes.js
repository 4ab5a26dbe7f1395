// The classes as buttons: numbers as keys, a search where there are many, marks for what is suggested.

import { $, element, show } from "./common.js";

const FEW = 10;

let names = [];
let buttons = new Map(); // class -> its button in the full list
let keyed = []; // classes that the number keys give
let active = null; // marked by the search
let pick = () => {};

export function onPick(callback) {
  pick = callback;
}

export const isMany = () => names.length > FEW;

// marks: class -> {text, spoken}; with many classes they are shown a second time above the others.
export function setClasses(wanted, marks = new Map(), { repeat = false } = {}) {
  if (wanted.length !== names.length || wanted.some((name, at) => name !== names[at])) {
    names = [...wanted];
    buttons = new Map(names.map((name) => [name, button(name)]));
    $("classes").replaceChildren(...buttons.values());
    $("classes").classList.toggle("many", isMany());
    $("suggested").classList.toggle("many", isMany());
    show("search-box", isMany());
  }
  const above = repeat && isMany() ? [...marks.keys()].filter((name) => buttons.has(name)) : [];
  const copies = above.map((name) => button(name));
  $("suggested").replaceChildren(...copies);
  show("suggested", above.length > 0);
  keyed = (above.length ? above : names).slice(0, FEW);
  for (const [name, made] of buttons) dress(made, name, marks.get(name), above.length ? -1 : keyed.indexOf(name));
  copies.forEach((made, at) => dress(made, above[at], marks.get(above[at]), at));
  clearSearch();
  choose(null);
}

function button(name) {
  const made = element("button", { type: "button" });
  made.dataset.label = name;
  made.addEventListener("click", () => pick(name));
  return made;
}

// card_payment_not_recognised is one word to a browser; it may be broken after each part of it.
function breakable(name) {
  return name.split(/(?<=[_\-./])/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));
}

function dress(made, name, mark, at) {
  const parts = [element("span", { className: "name", dir: "auto" }, ...breakable(name))];
  if (at >= 0) parts.unshift(element("kbd", { textContent: (at + 1) % FEW }));
  if (mark) parts.push(element("span", { className: "mark", textContent: mark.text }));
  made.replaceChildren(...parts);
  made.classList.toggle("marked", Boolean(mark));
  made.style.setProperty("--share", `${mark?.percent ?? 100}%`);
  made.setAttribute("aria-label", mark ? `${name}, ${mark.spoken}` : name);
  if (at >= 0) made.setAttribute("aria-keyshortcuts", (at + 1) % FEW); else made.removeAttribute("aria-keyshortcuts");
}

// Show what is being saved.
export function choose(name) {
  for (const made of document.querySelectorAll(".classes button")) made.classList.toggle("chosen", made.dataset.label === name);
}

// The class of a number key; null: there is none.
export function ofKey(key) {
  return /^[0-9]$/.test(key) ? keyed[(Number(key) + FEW - 1) % FEW] ?? null : null;
}

const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/[_\-./\s]+/g, " ").trim();

function rank(name, wanted) {
  const words = plain(name);
  if (words === wanted) return 0;
  if (words.startsWith(wanted)) return 1;
  if (words.includes(` ${wanted}`)) return 2;
  if (words.includes(wanted)) return 3;
  return wanted.split(" ").every((word) => words.includes(word)) ? 4 : Infinity;
}

function search() {
  const wanted = plain($("search").value);
  let best = Infinity;
  mark(null);
  let first = null;
  for (const [name, made] of buttons) {
    const found = wanted ? rank(name, wanted) : 0;
    made.hidden = found === Infinity;
    if (wanted && found < best) [best, first] = [found, name];
  }
  mark(first);
  show("no-class", Boolean(wanted) && best === Infinity);
  show("suggested", !wanted && $("suggested").childElementCount > 0);
}

function mark(name) {
  buttons.get(active)?.classList.remove("active");
  active = name;
  const made = buttons.get(active);
  made?.classList.add("active");
  made?.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const shown = names.filter((name) => !buttons.get(name).hidden);
  if (!shown.length) return;
  const at = shown.indexOf(active);
  mark(shown[(at + step + shown.length + (at < 0 && step < 0 ? 1 : 0)) % shown.length]);
}

export function clearSearch() {
  $("search").value = "";
  search();
  if (document.activeElement === $("search")) $("search").blur();
}

export function openSearch() {
  if (!isMany()) return false;
  $("search").focus();
  $("search").select();
  return true;
}

$("search").addEventListener("input", search);
$("search").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Escape") clearSearch();
  else if (event.key === "ArrowDown") move(1);
  else if (event.key === "ArrowUp") move(-1);
  else if (event.key === "Enter" && !event.repeat) { if (active !== null) pick(active); }
  else return;
  event.preventDefault();
});
