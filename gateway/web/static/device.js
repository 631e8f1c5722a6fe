// The page of one device: its card is live by ward.js; the sections below it are fetched anew every few seconds and when the card
// changes. A section that cannot be renewed is said to be old and greyed. Without this the page reloads by itself.

const EVERY_MS = 5000;
const SOON_MS = 300;
const OLD_MS = 16000; // three were missed

const body = document.body;
let renewed = performance.now();
let at = document.getElementById("old-at")?.dateTime;
let fetching = false;
let timer = null;

function openOnes(section) {
  return [...section.querySelectorAll("details")].map((d) => d.open);
}

// A section in which a file is chosen or words are marked is somebody's work: it is left alone.
function busy(section) {
  const marked = document.getSelection();
  if (!marked.isCollapsed && section.contains(marked.anchorNode)) return true;
  return [...section.querySelectorAll("input[type=file]")].some((i) => i.files.length);
}

function trail(node) {
  return `${node.tagName} ${node.getAttribute("href") || node.name || ""} ${node.textContent}`;
}

function replace(section, fresh) {
  const open = openOnes(section);
  const other = document.importNode(fresh, true);
  if (open.length === openOnes(other).length) other.querySelectorAll("details").forEach((d, i) => { d.open = open[i]; });
  if (other.outerHTML === section.outerHTML) return;
  const focused = section.contains(document.activeElement) ? trail(document.activeElement) : null;
  section.replaceWith(other);
  if (focused === null) return;
  [...other.querySelectorAll("a, button, summary, input")].find((n) => trail(n) === focused)?.focus({ preventScroll: true });
}

async function renew() {
  if (fetching || document.hidden) return;
  fetching = true;
  try {
    const answer = await fetch(body.dataset.page, { cache: "no-store", redirect: "error" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (fresh.body.dataset.build !== body.dataset.build) return; // ward.js loads the new page
    for (const section of document.querySelectorAll("[data-renewed]")) {
      const other = fresh.getElementById(section.id);
      const examined = section.id === "cert" && section.querySelector(".checks, .error");
      if (other && !busy(section) && !examined) replace(section, other);
    }
    renewed = performance.now();
    at = fresh.getElementById("old-at")?.dateTime ?? at;
  } catch {
    // said below, once it lasts
  } finally {
    fetching = false;
    age();
  }
}

function age() {
  const old = performance.now() - renewed > OLD_MS && !document.hidden;
  if (old === "old" in body.dataset) return;
  if (old) {
    body.dataset.old = "";
    const shown = new Date(at);
    if (!Number.isNaN(shown.getTime())) document.getElementById("old-at").textContent = shown.toLocaleTimeString("en-GB");
  } else delete body.dataset.old;
  document.getElementById("old").hidden = !old || "lost" in body.dataset; // ward.js says it better when all is lost
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(renew, SOON_MS);
}

if (body.dataset.page) {
  setInterval(renew, EVERY_MS);
  setInterval(age, 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { renewed = Math.max(renewed, performance.now() - OLD_MS); renew(); } });
  const watch = new MutationObserver(soon);
  for (const slot of document.querySelectorAll('.device [data-slot="level"], .device [data-slot="functions"]')) {
    watch.observe(slot, { childList: true });
  }
}
