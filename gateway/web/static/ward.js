// The live page, on every page: the frame, and on the ward the cards. The server sends finished HTML for the parts that changed; this puts it in place and lets the clocks run.
// Everything it does is a convenience: without it the page is complete and reloads by itself.

const SILENCE_MS = 3500; // the server gives a sign of life every second: three were missed
const FRESH_MS = 5000; // an older reading is the last one, not the present one
const RETRY_MS = 2000;

const body = document.body;
const only = body.dataset.only; // the page of one device
const shown = new Map(); // part -> the HTML that is in place
let ahead = Number(body.dataset.now) - performance.now(); // boot time of the gateway minus ours
let source = null;
let heard = performance.now();
let lost = false;
let last = null; // ISO time of the newest picture

const now = () => performance.now() + ahead;

// --- words, the same as the server's ---

function ago(ms) {
  const s = Math.floor(Math.max(0, ms) / 1000);
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60), h = Math.floor(s / 3600);
  if (m < 60) return `${m} min`;
  if (h < 24) return `${h} h ${m % 60} min`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}

function left(ms) {
  const s = Math.ceil(ms / 1000);
  if (s <= 0) return "over";
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clockTime(iso, seconds) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  return at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
}

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const far = Math.abs(Date.now() - at.getTime()) > 20 * 3600 * 1000;
    const day = far ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) + ", " : "";
    put(time, day + clockTime(time.dateTime, time.classList.contains("num")));
  }
}

// --- clocks ---

function tick() {
  if (!lost && source && performance.now() - heard > SILENCE_MS) lose();
  if (lost) return;
  const t = now();
  for (const node of document.querySelectorAll("[data-until]")) put(node, left(Number(node.dataset.until) - t));
  for (const node of document.querySelectorAll("[data-since]")) put(node, ago(t - Number(node.dataset.since)));
  for (const node of document.querySelectorAll("[data-fresh]")) {
    node.classList.toggle("stale", t - Number(node.dataset.fresh) > FRESH_MS);
  }
}

// --- the picture ---

function cardOf(id) {
  let card = document.querySelector(`.device[data-device="${CSS.escape(id)}"]`);
  const template = document.getElementById("card");
  if (!card && template && !only) {
    card = template.content.firstElementChild.cloneNode(true);
    card.dataset.device = id;
  }
  return card;
}

function slotOf(part) {
  const cut = part.indexOf("/");
  if (cut < 0) return document.querySelector(`[data-slot="${CSS.escape(part)}"]`);
  const card = document.querySelector(`.device[data-device="${CSS.escape(part.slice(0, cut))}"]`);
  return card && card.querySelector(`[data-slot="${CSS.escape(part.slice(cut + 1))}"]`);
}

function place(part, html) {
  if (shown.get(part) === html) return;
  const slot = slotOf(part);
  if (!slot) return;
  if (only && part.endsWith("/actions")) return; // that page has its actions elsewhere
  const holder = document.createElement("template");
  holder.innerHTML = html; // made by the server's own templates, which escape; no script runs from it
  const focused = slot.contains(document.activeElement) ? document.activeElement : null;
  const trail = focused && (focused.getAttribute("href") || focused.textContent);
  const open = slot.querySelector("details[open]") !== null;
  slot.replaceChildren(holder.content);
  if (open) slot.querySelector("details")?.setAttribute("open", "");
  if (focused) {
    const again = [...slot.querySelectorAll("a, button, summary")].find((n) => (n.getAttribute("href") || n.textContent) === trail);
    again?.focus({ preventScroll: true });
  }
  localTimes(slot);
  shown.set(part, html);
}

// Sections that no stream carries are fetched anew, on pages with data-renew: when any level changes, and every so many seconds.
// (The page of one device has its own script for that.)
let fetching = false;
let known = null; // the levels at the last look
let renewed = performance.now();
const told = new Map(); // section -> what the server sent last

function renew(order) {
  const every = Number(body.dataset.renew);
  if (!every) return;
  const levels = JSON.stringify(order);
  const moved = known !== null && known !== levels;
  known = levels;
  if (!moved && performance.now() - renewed < every * 1000) return;
  renewed = performance.now();
  fetchRest();
}

async function fetchRest() {
  if (fetching) return;
  fetching = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const section of document.querySelectorAll("[data-fetched]")) {
      const other = fresh.getElementById(section.id);
      if (!other || told.get(section.id) === other.innerHTML || section.contains(document.activeElement)) continue;
      const open = [...section.querySelectorAll("details[open]")].map((d) => d.id);
      told.set(section.id, other.innerHTML); // as the server sent it: times are rewritten in place
      for (const id of open) if (id) other.querySelector(`details#${CSS.escape(id)}`)?.setAttribute("open", "");
      section.replaceWith(other);
    }
    localTimes(document);
  } catch {
    // the stream says by itself that the gateway is gone
  } finally {
    fetching = false;
  }
}

function arrange(order) {
  const room = document.getElementById("devices");
  if (!room) return;
  const wanted = only ? order.filter(([id]) => id === only) : order;
  const cards = wanted.map(([id, tone]) => {
    const card = cardOf(id);
    if (card && card.dataset.tone !== tone) card.dataset.tone = tone;
    return card;
  }).filter(Boolean);
  const there = [...room.querySelectorAll(":scope > .device")];
  if (cards.length === there.length && cards.every((card, i) => card === there[i])) return;
  const focused = room.contains(document.activeElement) ? document.activeElement : null;
  for (const card of there) if (!cards.includes(card)) forget(card);
  if (cards.length) room.querySelector(".empty")?.remove();
  room.append(...cards);
  focused?.focus({ preventScroll: true });
}

function forget(card) {
  for (const part of shown.keys()) if (part.startsWith(`${card.dataset.device}/`)) shown.delete(part);
  card.remove();
}

function picture(event) {
  const p = JSON.parse(event.data);
  if (p.build !== body.dataset.build) return location.reload(); // the gateway was upgraded under this page
  heard = performance.now();
  ahead = p.now_ms - heard;
  last = p.time;
  arrange(p.order);
  renew(p.order);
  for (const [part, html] of Object.entries(p.parts)) place(part, html);
  if (document.querySelector('[data-slot="headline"]') && p.title) document.title = `${p.title} · Wardgate`;
  if (p.say) put(document.getElementById("announce"), p.say);
  const at = document.getElementById("state-at");
  if (at) { at.dateTime = p.time; put(at, clockTime(p.time, true)); }
  find();
  tick();
}

// --- losing and finding the gateway ---

function lose() {
  lost = true;
  body.dataset.lost = "";
  if (last) put(document.getElementById("lost-at"), clockTime(last, true));
  document.getElementById("lost").hidden = false;
}

function find() {
  if (!lost) return;
  lost = false;
  delete body.dataset.lost;
  document.getElementById("lost").hidden = true;
}

function connect() {
  source?.close();
  shown.clear(); // a new stream sends everything again
  source = new EventSource(body.dataset.live);
  source.addEventListener("ward", picture);
  source.addEventListener("error", () => {
    lose();
    if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
    setTimeout(again, RETRY_MS);
  });
}

async function again() {
  try {
    const answer = await fetch("/api/v1/session", { cache: "no-store" });
    if (answer.status === 401) return location.reload(); // the session is over: to the login
  } catch {
    // the gateway is not there yet
  }
  connect();
}

localTimes(document);
if (body.dataset.live) {
  last = document.getElementById("state-at")?.dateTime ?? null;
  connect();
  setInterval(tick, 250);
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
}
