// Two things that a page cannot do by itself: show what has changed, and take a picture that is dropped on it.
"use strict";

const REFRESH_MILLISECONDS = 2000;

// A part stays as it is while somebody selects text in it, or is there with the keyboard. A log goes on all the same.
function isInUse(part) {
  const selection = document.getSelection();
  const holdsSelection = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  const { activeElement } = document;
  return holdsSelection || (part.contains(activeElement) && activeElement.id !== "log");
}

function update(part, fresh) {
  if (part.innerHTML === fresh.innerHTML || isInUse(part)) return;
  const isFocused = document.activeElement.id === "log" && part.contains(document.activeElement);
  const log = part.querySelector("#log");
  const [top, wasAtEnd] = log ? [log.scrollTop, isAtEnd(log)] : [0, true];
  part.replaceChildren(...fresh.childNodes);
  const newLog = part.querySelector("#log");
  if (newLog) newLog.scrollTop = wasAtEnd ? newLog.scrollHeight : top;
  if (isFocused) newLog?.focus({ preventScroll: true });
}

function isAtEnd(log) {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href.replace(/\/ask(?=\?|$)/, ""), { redirect: "error" });
      if (!response.ok) return;
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live][id]")) {
        const other = fresh.getElementById(part.id);
        if (other) update(part, other);
      }
      if (!("refresh" in fresh.body.dataset)) return;
    } catch {
      // The emulator does not answer for now, or the session has ended.
    }
  }
  setTimeout(refresh, REFRESH_MILLISECONDS);
}

function showAnswer(answer, fresh, files) {
  answer.replaceChildren(...fresh.childNodes);
  for (const place of answer.querySelectorAll("[data-preview]")) {
    const file = files[Number(place.dataset.preview)];
    if (!file) continue;
    const picture = document.createElement("img");
    picture.alt = file.name;
    picture.src = URL.createObjectURL(file);
    picture.onload = () => URL.revokeObjectURL(picture.src);
    place.append(picture);
  }
}

function prepareAsking(form) {
  const input = form.querySelector("input[type=file]");
  const answer = document.getElementById("answer");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" });
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("answer");
      if (!fresh) {
        location.reload(); // the session has ended, or the serving has gone
        return;
      }
      showAnswer(answer, fresh, [...input.files]);
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
  form.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  form.addEventListener("dragleave", () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) {
      input.files = event.dataTransfer.files;
      form.requestSubmit();
    }
  });
}

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
const form = document.getElementById("ask");
if (form) prepareAsking(form);
if ("refresh" in document.body.dataset) setTimeout(refresh, REFRESH_MILLISECONDS);
