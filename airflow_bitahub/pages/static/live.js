// Shows what has changed: parts of the page that have the attribute `data-live` are fetched again. The attribute
// `data-refresh` of the body says after how many seconds; without it, nothing changes any more. While the server does
// not answer, the pauses grow.
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

const PATIENCE = 30; // seconds for an answer
const LONGEST_PAUSE = 60; // seconds
let failures = 0; // in a row

// Shows what has changed, and returns "live"; "over": nothing changes any more; "lost": there was no answer of use;
// "ended": so has the session. Throws what the network throws.
async function look() {
  const address = location.href.replace(/\/ask(?=\?|$)/, "");
  const response = await fetch(address, { redirect: "manual", signal: AbortSignal.timeout(1000 * PATIENCE) });
  // A page redirects only to where one signs in.
  if (response.type === "opaqueredirect" || [401, 403].includes(response.status)) return "ended";
  const fresh = new DOMParser().parseFromString(response.ok ? await response.text() : "", "text/html");
  if (!fresh.querySelector("[data-live]")) return "lost"; // such as what a proxy says
  for (const part of document.querySelectorAll("[data-live][id]")) {
    const other = fresh.getElementById(part.id);
    if (other) update(part, other);
  }
  return "refresh" in fresh.body.dataset ? "live" : "over";
}

// Says in words what a look has found, where the page has words for it.
function say(found) {
  const place = document.getElementById("connection");
  const text = place.dataset[found] ?? "";
  if (place.textContent !== text) place.textContent = text;
  document.body.classList.toggle("stale", found === "lost" || found === "ended");
}

async function refresh() {
  if (!document.hidden) {
    const found = await look().catch(() => "lost");
    say(found === "live" && failures ? "back" : found);
    if (found === "over" || found === "ended") return;
    failures = found === "lost" ? failures + 1 : 0;
  }
  const pause = document.body.dataset.refresh * 2 ** failures;
  setTimeout(refresh, 1000 * Math.min(pause, LONGEST_PAUSE));
}

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
if ("refresh" in document.body.dataset) setTimeout(refresh, 1000 * document.body.dataset.refresh);
