
"use strict";

// --- elements: data goes in as text only ---

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

/** Makes an element. Attributes that are functions listen; `class`, `text` and `hidden` mean what they say. */
function h(name, attributes, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

function s(name, attributes, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

/** What parts of tables are, however they are laid out. */
const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TH: "columnheader", TD: "cell" };

function furnish(node, attributes, children) {
  if (ROLES[node.tagName]) node.setAttribute("role", ROLES[node.tagName]);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Sets text, and leaves alone what is there already: what is marked or read aloud stays as it is. */
function put(node, text) {
  const words = String(text);
  if (node.textContent !== words) node.textContent = words;
}

function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Shows `items` inside `parent`, each as what `make` made of its key; what is there stays, and moves if need be. */
function keyed(parent, items, key, make) {
  const known = parent.known || (parent.known = new Map());
  const wanted = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (wanted.has(name)) continue;
    wanted.add(name);
    let part = known.get(name);
    if (!part) known.set(name, (part = make(item)));
    part.update(item);
    if (part.node === place) place = place.nextSibling;
    else parent.insertBefore(part.node, place);
  }
  for (const [name, part] of known) {
    if (!wanted.has(name)) {
      part.node.remove();
      known.delete(name);
    }
  }
}

// --- signs: a shape for each level, so that colour is not needed ---

const SIGNS = {
  fine: "M4 10.5l4 4 8-9",
  paused: "M7 5v10M13 5v10",
  degraded: "M10 3l8 14H2zM10 8.5v3.5M10 14.6v.1",
  down: "M7 2.5h6l4.5 4.5v6L13 17.5H7L2.5 13V7zM7.5 7.5l5 5M12.5 7.5l-5 5",
  news: "M10 9.9v.2",
};
const WORDS = { fine: "fine", paused: "paused", degraded: "degraded", down: "down" };

function sign(level, spoken) {
  const path = s("path", { d: SIGNS[level] || SIGNS.news });
  const node = s("svg", { class: "sign", viewBox: "0 0 20 20", "data-level": level }, path);
  node.set = (next, words) => {
    mark(node, "data-level", next);
    mark(path, "d", SIGNS[next] || SIGNS.news);
    if (words === undefined) mark(node, "aria-hidden", "true");
    else {
      mark(node, "role", "img");
      mark(node, "aria-label", words);
    }
  };
  node.set(level, spoken);
  return node;
}

// --- numbers and times, for people ---

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const whole = (n) => grouped.format(n);

function rate(perSecond) {
  if (!perSecond) return "0";
  if (perSecond < 0.1) return "<0.1";
  if (perSecond < 100) return perSecond.toFixed(1);
  return perSecond < 100000 ? whole(perSecond) : (perSecond / 1000).toFixed(0) + "k";
}

/** Milliseconds; without a call there are none. */
function millis(ms, calls) {
  if (!ms) return calls ? "0 ms" : "–";
  if (ms < 10) return ms.toFixed(ms < 1 ? 2 : 1) + " ms";
  if (ms < 1000) return ms.toFixed(0) + " ms";
  return (ms / 1000).toFixed(ms < 10000 ? 2 : 1) + " s";
}

function share(part, all) {
  if (!all) return "–";
  const percent = (part * 100) / all;
  if (part === 0) return "0 %";
  if (percent < 0.1) return "<0.1 %";
  return percent.toFixed(percent < 10 ? 1 : 0) + " %";
}

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return seconds + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + (Math.floor(seconds / 60) % 60) + " min";
  return Math.floor(seconds / 86400) + " d " + (Math.floor(seconds / 3600) % 24) + " h";
}

const ago = (at) => (now() - at < 2000 ? "just now" : span(now() - at) + " ago");
const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const stamp = (at) => new Date(at).toLocaleString([], { hour12: false });

/** A time that says how long ago it was; it grows older by itself. */
function timeOf(at, words) {
  const node = h("time", { datetime: new Date(at).toISOString(), title: stamp(at) });
  node.age = () => put(node, (words || "") + ago(at));
  node.age();
  return node;
}

const plural = (n, word) => whole(n) + " " + word + (n === 1 ? "" : "s");

// --- small compositions ---

function panel(title, ...head) {
  const count = h("span", { class: "count" });
  const heading = h("h2", { text: title });
  const body = h("div");
  const node = h("section", { class: "panel", "aria-label": title }, h("div", { class: "head" }, heading, count, ...head), body);
  return { node, body, count, heading };
}

function empty(strong, ...rest) {
  return h("div", { class: "empty" }, h("b", { text: strong }), ...rest);
}

/** Buttons of which one is chosen. */
function choice(label, options, chosen, onChoose) {
  const buttons = options.map(([value, words]) =>
    h("button", { type: "button", text: words, "aria-pressed": String(value === chosen), click: () => choose(value) }),
  );
  const choose = (value) => {
    options.forEach(([other], at) => mark(buttons[at], "aria-pressed", String(other === value)));
    onChoose(value);
  };
  return h("div", { class: "tabs", role: "group", "aria-label": label }, buttons);
}

const isTrouble = (kind) => ["expired", "unhealthy", "ejected", "panic", "warning"].includes(kind);
