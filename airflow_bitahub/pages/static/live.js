// Shows what has changed: parts of the page that have the attribute `data-live` are fetched again. The attribute
// `data-refresh` of the body says after how many seconds; without it, nothing changes any more.
"use strict";

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
      // The server does not answer for now, or the session has ended.
    }
  }
  setTimeout(refresh, 1000 * document.body.dataset.refresh);
}

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
if ("refresh" in document.body.dataset) setTimeout(refresh, 1000 * document.body.dataset.refresh);
