// What the pages do beyond links and forms: parts refresh themselves, times are in the reader's zone, keys.
// Every page works without it.
"use strict";

const MOST_SECONDS_BETWEEN = 30;
const $ = (id) => document.getElementById(id);

// Times: the page has them in UTC; written in the reader's zone, with UTC on hover.

const two = (number) => String(number).padStart(2, "0");

function inZone(date, form) {
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const minute = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (form === "minute") return minute;
  const time = `${minute}:${two(date.getSeconds())}`;
  return date.toDateString() === new Date().toDateString() ? time : `${day} ${time}`;
}

function localise(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (!isNaN(date)) time.textContent = inZone(date, time.dataset.form);
  }
}

function nameZone() {
  const minutes = -new Date().getTimezoneOffset();
  const offset = `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  $("zone").textContent = `Times in ${name || "your zone"} (${offset}); UTC on hover`;
}

// Refresh: <section data-refresh="URL" data-seconds="2"> is replaced by what the URL answers, where it differs.

function morph(old, made) {
  // Make the children of `old` like those of `made`, and leave alone what is the same: focus, hover, open details.
  const former = [...old.childNodes];
  [...made.childNodes].forEach((child, index) => {
    const same = former[index];
    if (!same) old.append(child);
    else if (same.nodeType !== child.nodeType || same.nodeName !== child.nodeName || same.id !== child.id) same.replaceWith(child);
    else if (same.nodeType !== Node.ELEMENT_NODE) {
      if (same.data !== child.data) same.data = child.data;
    } else {
      for (const { name } of [...same.attributes])
        if (!child.hasAttribute(name) && !(name === "open" && same.localName === "details")) same.removeAttribute(name);
      for (const { name, value } of child.attributes)
        if (same.getAttribute(name) !== value) same.setAttribute(name, value);
      if (!same.isEqualNode(child)) morph(same, child);
    }
  });
  for (const rest of former.slice(made.childNodes.length)) rest.remove();
}

function isInUse(section) {
  // A text is selected there, a form is being filled in, or the pointer is down on a link.
  const selection = getSelection();
  if (!selection.isCollapsed && section.contains(selection.anchorNode)) return true;
  const focus = document.activeElement;
  return (section.contains(focus) && focus.matches("input, select, textarea")) || section.matches(":active");
}

function show(section, text) {
  const made = document.createElement("template");
  made.innerHTML = text;
  localise(made.content);
  const focus = section.contains(document.activeElement) ? document.activeElement : null;
  const href = focus?.getAttribute("href");
  morph(section, made.content);
  if (href && focus.getAttribute("href") !== href)  // the row moved: the focus stays with its link
    (section.querySelector(`a[href="${CSS.escape(href)}"]`) ?? $("main")).focus({ preventScroll: true });
}

let awaySince = null;

function noteAnswer(at) {
  const wasAway = awaySince !== null;
  awaySince = null;
  if (wasAway)  // what the other sections show is old
    document.querySelectorAll("[data-refresh]").forEach((section) => section.dispatchEvent(new Event("refresh")));
  $("away").hidden = true;
  const read = document.querySelector(".foot time");
  if (read && at && !isNaN(at)) {
    read.dateTime = at.toISOString();
    read.title = `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
    read.textContent = inZone(at);
  }
}

function noteSilence() {
  awaySince ??= new Date();
  $("away").textContent = `No answer since ${inZone(awaySince)}, trying again. What you see is older.`;
  $("away").hidden = false;
}

function follow(section) {
  const seconds = Number(section.dataset.seconds) || 5;
  let timer = null;
  let busy = false;
  let failures = 0;
  const next = () => {
    clearTimeout(timer);
    timer = setTimeout(run, 1000 * Math.min(Math.max(seconds, MOST_SECONDS_BETWEEN), seconds * 2 ** Math.min(failures, 5)));
  };
  async function run() {
    if (busy || document.hidden || !section.isConnected) return;
    if (isInUse(section)) return next();
    busy = true;
    try {
      const answer = await fetch(section.dataset.refresh, { credentials: "same-origin", cache: "no-store" });
      if (answer.status === 401 || (answer.redirected && new URL(answer.url).pathname.startsWith("/login"))) return location.reload();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const text = await answer.text();
      if (!isInUse(section)) show(section, text);
      failures = 0;
      noteAnswer(new Date(answer.headers.get("date")));
    } catch {
      failures += 1;
      noteSilence();
    } finally {
      busy = false;
    }
    next();
  }
  document.addEventListener("visibilitychange", run);
  section.addEventListener("refresh", run);
  next();
}

// Charts: the values under the pointer instead of the latest.

function showSlot(drawing, index) {
  const slots = drawing.dataset.values.split(";");
  const chart = drawing.closest(".chart");
  const at = new Date(Date.parse(drawing.dataset.from) + 1000 * drawing.dataset.slot * index);
  const words = slots.at(index).split("|");
  chart.querySelector(".at").textContent = index < 0 ? "" : inZone(at, "minute");
  chart.querySelectorAll(".values b").forEach((shown, line) => (shown.textContent = words[line]));
}

document.addEventListener("pointermove", (event) => {
  const drawing = event.target.closest?.(".plot svg");
  for (const at of document.querySelectorAll(".chart .at:not(:empty)")) {
    const other = at.closest(".chart").querySelector("svg");
    if (other !== drawing) showSlot(other, -1);
  }
  if (!drawing) return;
  const { left, width } = drawing.getBoundingClientRect();
  const count = drawing.dataset.values.split(";").length;
  showSlot(drawing, Math.max(0, Math.min(count - 1, Math.floor((count * (event.clientX - left)) / width))));
});

// Keys: / for the search, two letters for a page, ? for the list. Links and fields carry theirs in data-key.

let first = "";

function keyed() {
  return [...document.querySelectorAll("[data-key]")];
}

function showKeys() {
  const list = $("keylist").querySelector("dl");
  const rows = [...keyed().map((found) => [found.dataset.key, found.dataset.keyName ?? found.textContent.trim()]), ["?", "this list"], ["Esc", "close, or leave a field"]];
  list.replaceChildren(...rows.flatMap(([keys, name]) => {
    const term = document.createElement("dt");
    const meaning = document.createElement("dd");
    for (const key of keys.split(" ")) {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      term.append(shown, " ");
    }
    meaning.textContent = name;
    return [term, meaning];
  }));
  $("keylist").showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keylist").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "?") {
    event.preventDefault();
    return showKeys();
  }
  const pressed = first ? `${first} ${event.key}` : event.key;
  first = "";
  const found = keyed().find((candidate) => candidate.dataset.key === pressed);
  if (found) {
    event.preventDefault();
    if (found.matches("input")) found.select(), found.focus();
    else found.click();
  } else if (keyed().some((candidate) => candidate.dataset.key.startsWith(`${pressed} `))) {
    first = pressed;
    setTimeout(() => (first = ""), 1500);
  }
});

// Theme: the system's, light or dark; theme.js sets it before the page is drawn.

const THEMES = ["system", "light", "dark"];

function setTheme(name) {
  if (name === "system") {
    localStorage.removeItem("levelq-theme");
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem("levelq-theme", name);
    document.documentElement.dataset.theme = name;
  }
  $("theme").textContent = `Theme: ${name}`;
}

$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
$("theme").textContent = `Theme: ${document.documentElement.dataset.theme ?? "system"}`;
$("keys").addEventListener("click", showKeys);
$("tools").hidden = false;
nameZone();
localise(document);
document.querySelectorAll("[data-refresh]").forEach(follow);
