// What all parts of the page share: elements, who is labelling, and how the server is asked.
// Texts and names of classes only ever become text nodes: nothing in them can run.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function show(id, wanted) {
  $(id).hidden = !wanted;
}

// A store that is switched off, or full, must not stop anybody from labelling.
function read(store, key) {
  try { return window[store].getItem(key); } catch { return null; }
}
function write(store, key, value) {
  try {
    if (value === null) window[store].removeItem(key); else window[store].setItem(key, value);
  } catch { /* it is asked for again */ }
}
export const ofBrowser = { get: (key) => read("localStorage", `svp-${key}`), set: (key, value) => write("localStorage", `svp-${key}`, value) };
export const ofTab = { get: (key) => read("sessionStorage", `svp-${key}`), set: (key, value) => write("sessionStorage", `svp-${key}`, value) };

// crypto.randomUUID is missing where a page comes over plain HTTP from another machine.
export function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const tab = ofTab.get("tab") ?? random();
ofTab.set("tab", tab);

// The name that this tab was opened with comes first: two people may share a browser.
let annotator = new URLSearchParams(location.search).get("annotator") ?? ofTab.get("annotator") ?? ofBrowser.get("annotator") ?? "";
annotator = annotator.trim().slice(0, 60);
if (annotator) {
  ofTab.set("annotator", annotator);
  ofBrowser.set("annotator", annotator);
}

export const who = () => annotator;
export function setWho(name) {
  annotator = name.trim();
  ofTab.set("annotator", annotator);
  ofBrowser.set("annotator", annotator);
  const address = new URL(location.href);
  if (address.searchParams.has("annotator")) {
    address.searchParams.set("annotator", annotator);
    history.replaceState(null, "", address);
  }
}

// A new name for each answer: sending it again cannot give it twice.
export const newOrigin = () => `${tab}.${random()}`;

export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
  // Nothing is wrong with what was sent: it may be sent again.
  get mayPass() {
    return this.status === 0 || this.status === 401 || this.status === 403 || this.status === 421 || this.status >= 500;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(90_000) });
  } catch {
    throw new Failure(0, "The server cannot be reached.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Failure(response.status, body.error ?? `The server answered with ${response.status}.`);
  return body;
}

export const getProject = () => ask("api/project", {});
export const post = (name, values = {}) =>
  ask(`api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-svp-label": "1" },
    body: JSON.stringify({ annotator, tab, ...values }),
  });

export function say(message) {
  $("said").textContent = message;
}

let retrying = null;
export function trouble(message, retry = null) {
  retrying = retry;
  $("trouble-text").textContent = message;
  show("retry", retry !== null);
  show("trouble", true);
}
export function noTrouble() {
  retrying = null;
  show("trouble", false);
}
$("retry").addEventListener("click", () => retrying?.());

export const number = (value) => value.toLocaleString("en");
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function showRow(row) {
  const text = $("text");
  text.hidden = row.has_image;
  text.textContent = row.text;
  text.dataset.id = row.id;
  text.classList.toggle("long", row.text.length > 600);
  text.scrollTop = 0;
  // A new element each time: an old one shows its picture until the next has come, and people would label that.
  const image = element("img", { id: "image", className: "image", alt: "The image to label", hidden: !row.has_image });
  if (row.has_image) image.src = `image/${encodeURIComponent(row.id)}`;
  $("image").replaceWith(image);
  window.scrollTo(0, 0);
  if (!row.has_image) text.focus({ preventScroll: true });
}

// A question in a dialog; resolves to what was typed ("" where nothing is), or to null.
export function inquire({ title, text = "", yes, value = null }) {
  const dialog = $("ask-dialog");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask-value").value = value ?? "";
  show("ask-value", value !== null);
  dialog.returnValue = "";
  return new Promise((resolve) => {
    let answered = false;
    const submit = () => { answered = true; };
    const form = dialog.querySelector("form");
    form.addEventListener("submit", submit, { once: true });
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      resolve(answered ? $("ask-value").value.trim() : null);
    }, { once: true });
    dialog.showModal();
  });
}
$("ask-no").addEventListener("click", () => $("ask-dialog").close());
$("ask-value").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask-yes").click();
  }
});
