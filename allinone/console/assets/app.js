"use strict";
// Draws what /console/stream sends. All text goes in by textContent: nothing that a channel or a SKU is called can become markup.
const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const rates = [];

function el(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}
function set(id, text) { const e = $(id); if (e.textContent !== text) e.textContent = text; }
function millis(ms) { return ms >= 10000 ? (ms / 1000).toFixed(1) + " s" : ms >= 100 ? whole.format(ms) + " ms" : ms.toFixed(1) + " ms"; }
function rows(id, items, draw, empty, span) {
  const body = $(id), out = items.map((x) => { const tr = el("tr"); tr.append(...draw(x)); return tr; });
  if (!out.length) { const tr = el("tr"), td = el("td", empty, "quiet"); td.colSpan = span; tr.append(td); out.push(tr); }
  body.replaceChildren(...out);
}

function draw(f) {
  const state = $("state");
  set("state", f.ready ? (f.quiet ? "ready, quiet" : "ready, working") : "not ready");
  state.className = "badge " + (f.ready ? "good" : "bad");
  state.title = (f.not_ready || []).map((c) => c.name + ": " + c.reason).join("\n");
  set("meta", "version " + f.version + " · up " + since(f.started_at, f.at) + (f.memory ? " · " + whole.format(f.memory / 1048576) + " MB" : ""));
  const ingest = f.stages.find((s) => s.name === "ingest") || { per_second: 0 };
  set("k-rate", whole.format(ingest.per_second));
  rates.push(ingest.per_second);
  if (rates.length > 120) rates.shift();
  const top = Math.max(1, ...rates);
  document.querySelector("#spark polyline").setAttribute("points", rates.map((v, i) => (rates.length > 1 ? 120 * i / (rates.length - 1) : 120).toFixed(1) + "," + (27 - 26 * v / top).toFixed(1)).join(" "));
  set("k-p99", f.sync.count ? millis(f.sync.p99) : "–");
  set("k-latency", f.sync.count ? "p50 " + millis(f.sync.p50) + " · p95 " + millis(f.sync.p95) : "sale received → every other channel told");
  set("k-backlog", whole.format(f.backlog));
  set("k-oversold", whole.format(f.oversold));
  $("c-oversold").classList.toggle("alarm", f.oversold > 0);
  set("k-refused", f.refused < 0 ? "–" : whole.format(f.refused));
  rows("stages", f.stages, (s) => {
    const th = el("th", s.name); th.scope = "row"; th.append(" ", el("span", s.unit, "quiet"));
    return [th, el("td", whole.format(s.per_second), "n"), el("td", whole.format(s.total), "n"), el("td", whole.format(s.lag), "n" + (s.lag > 10000 ? " warn" : ""))];
  }, "none", 4);
  rows("pushes", f.pushes, (p) => {
    const sku = el("td"), b = el("button", p.sku, "link"); b.type = "button"; b.onclick = () => lookUp(p.sku); sku.append(b);
    const out = el("td", p.outcome, p.outcome === "applied" ? "" : "bad"); out.title = p.detail || "";
    return [el("td", clock.format(new Date(p.at))), el("td", p.channel), sku, el("td", whole.format(p.quantity), "n"), el("td", p.millis ? millis(p.millis) : "–", "n"), out];
  }, "none yet", 6);
  $("alerts").replaceChildren(...(f.alerts.length ? f.alerts.map((a) => {
    const li = el("li"); li.append(el("strong", a.kind), " ", el("span", clock.format(new Date(a.at)) + " " + [a.sku, a.channel].filter(Boolean).join(" at "), "quiet"), el("br"), a.message); return li;
  }) : [el("li", "none", "quiet")]));
  $("addresses").replaceChildren(...f.addresses.flatMap((a) => {
    const dd = el("dd"); dd.append(el("code", a.url)); return [el("dt", a.name), dd];
  }));
  $("replay").hidden = !f.replay;
  if (f.replay) { $("replay-bar").value = f.replay.share; set("replay-text", f.replay.day + " · " + whole.format(f.replay.lines) + " lines · " + (100 * f.replay.share).toFixed(1) + " %"); }
}
function since(a, b) {
  let s = Math.max(0, Math.floor((new Date(b) - new Date(a)) / 1000));
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60; s %= 60;
  return (h ? h + " h " : "") + (h || m ? m + " min " : "") + s + " s";
}

let shownSKU = "", watched = null;
function lookUp(sku) {
  sku = sku.trim(); if (!sku) return;
  $("sku").value = sku;
  if (watched) watched.close();
  shownSKU = sku; shown = { generation: -1, version: -1 };
  show(sku);
  // Each change has the SKU read again: its targets and their reasons follow the stock a moment later.
  const source = watched = new EventSource("/console/changes?sku=" + encodeURIComponent(sku));
  let soon = 0;
  source.addEventListener("availability", (m) => {
    const a = JSON.parse(m.data);
    if (source !== watched || a.generation < shown.generation || (a.generation === shown.generation && a.version <= shown.version)) return;
    if (!soon) soon = setTimeout(() => { soon = 0; if (source === watched) show(sku); }, 250);
  });
  source.onerror = () => { if (source.readyState === EventSource.CLOSED && source === watched) setTimeout(() => { if (source === watched) lookUp(sku); }, 5000); };
}
let shown = { generation: -1, version: -1 };
async function show(sku) {
  const box = $("sku-answer");
  try {
    const r = await fetch("/console/skus/" + encodeURIComponent(sku));
    if (r.status === 401) { location.reload(); return; }
    if (!r.ok) throw new Error(await r.text());
    const d = await r.json();
    if (shownSKU !== sku) return;
    if (d.availability) shown = d.availability;
    const open = new Set(Array.from(box.querySelectorAll("details[open]"), (x) => x.dataset.channel));
    box.replaceChildren(...answer(d));
    box.querySelectorAll("details").forEach((x) => { x.open = open.has(x.dataset.channel); });
  } catch (e) { box.replaceChildren(el("p", "Could not look it up: " + e.message, "bad")); }
}
function table(head, lines) {
  const wrap = el("div", undefined, "scroll"), t = el("table"), h = el("tr");
  head.forEach((x, i) => { const th = el("th", x, i ? "n" : ""); th.scope = "col"; h.append(th); });
  const thead = el("thead"), body = el("tbody"); thead.append(h);
  for (const l of lines) { const tr = el("tr"); l.forEach((x, i) => { const c = el(i ? "td" : "th", i ? whole.format(x) : x, i ? "n" + (x < 0 ? " bad" : "") : ""); if (!i) c.scope = "row"; tr.append(c); }); body.append(tr); }
  t.append(thead, body); wrap.append(t); return wrap;
}
function answer(d) {
  if (!d.availability) return [el("p", d.error || "Nothing is known of it.", "quiet")];
  const a = d.availability, out = [];
  const p = el("p"); p.append(el("strong", whole.format(a.available) + " available", a.available < 0 ? "bad" : ""), a.unassigned ? " · " + whole.format(a.unassigned) + " sold without a location yet" : ""); out.push(p);
  if ((a.locations || []).length) out.push(table(["Location", "on hand", "committed", "held", "inbound", "unsellable", "safety", "available"],
    a.locations.map((l) => [l.location, l.on_hand || 0, l.committed || 0, l.held || 0, l.inbound || 0, l.unsellable || 0, l.safety_stock || 0, l.available || 0])));
  const targets = (d.targets && (d.targets.targets || d.targets.channels)) || (Array.isArray(d.targets) ? d.targets : []);
  if (targets.length) {
    out.push(el("h3", "Channels should show"));
    for (const t of targets) {
      const box = el("details"), sum = el("summary"); box.dataset.channel = t.channel;
      sum.append(el("span", t.channel), el("span", t.mode || "", "quiet"), el("strong", whole.format(t.quantity || 0)));
      const ol = el("ol");
      for (const s of t.explanation || []) { const li = el("li"); li.append(el("code", s.step || s.name), " → " + whole.format(s.units || 0) + " ", el("span", s.detail || "", "quiet")); ol.append(li); }
      box.append(sum, ol); out.push(box);
    }
  }
  const sold = Object.entries(a.sold || {}).filter(([, units]) => units);
  if (sold.length) { out.push(el("h3", "Sold since the beginning")); out.push(table(["Channel", "units"], sold)); }
  return out;
}

$("sku-form").addEventListener("submit", (e) => { e.preventDefault(); lookUp($("sku").value); });
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { e.preventDefault(); $("sku").focus(); $("sku").select(); }
});

function connect() {
  const source = new EventSource("/console/stream");
  source.onmessage = (m) => draw(JSON.parse(m.data));
  source.onerror = () => {
    set("state", "no connection"); $("state").className = "badge bad";
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}
connect();
