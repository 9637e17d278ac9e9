"use strict";

// Sorting -------------------------------------------------------------------------------------------------------------

function sortBy(table, button) {
  const head = button.closest("th");
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("thead th")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const { key, type } = button.dataset;
  const compare = (a, b) => (type === "text" ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b));
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [a.dataset[key], b.dataset[key]];
    if (x === "" || y === "") return Number(x === "") - Number(y === ""); // missing values go last, either way
    return ascending ? compare(x, y) : compare(y, x);
  });
  body.append(...rows);
}

const comparison = document.getElementById("comparison");
for (const button of comparison.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(comparison, button));
}

// A link to a folded part unfolds it; printing unfolds all ----------------------------------------------------------------

function unfold() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) {
    if (part instanceof HTMLDetailsElement) part.open = true;
  }
  if (target) target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
unfold();

// The chooser ---------------------------------------------------------------------------------------------------------

const budget = JSON.parse(document.getElementById("budget").textContent);
const BITS = { bf16: "16", fp8: "8", q8_0: "8", q4_0: "4" };
const byId = (id) => document.getElementById(id);

function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(value) < 999.5) return `${unit === "B" ? value.toFixed(0) : Number(value.toPrecision(3))} ${unit}`;
    value /= 1000;
  }
  return `${Number(value.toPrecision(3))} TB`;
}

const count = (number) => number.toLocaleString("en");
const titleOf = (engine) => budget.engines.find((e) => e.name === engine).title;

function element(name, css, text) {
  const made = document.createElement(name);
  if (css) made.className = css;
  if (text) made.textContent = text;
  return made;
}

// The machine as chosen: {title, devices, chips, note, usable: {engine: bytes}, overhead: {engine: key}}.
function chosenMachine() {
  const name = byId("machine").value;
  if (name !== "own") return budget.machines.find((m) => m.name === name);
  const each = Number(byId("own-memory").value) * Number(byId("own-unit").value);
  const devices = Number(byId("own-devices").value);
  const usable = {};
  const overhead = {};
  for (const { name: engine } of budget.engines) {
    usable[engine] = engine === "llama.cpp" ? each - budget.own.margin : Math.floor(each * budget.own.utilization);
    const key = budget.own.overhead[`${engine}|${devices}`];
    if (key) overhead[engine] = key;
  }
  return { title: "Your machine", devices, chips: [], note: "", utilization: null, usable, overhead };
}

// What a variant needs of each device in one engine; null where the engine has no such cache or cannot split it so.
function needs(variant, engine, machine, place, bits) {
  const cache = budget.engines.find((e) => e.name === engine).caches.find((c) => BITS[c] === bits);
  const weights = variant.weights[machine.devices];
  const key = machine.overhead[engine];
  if (!cache || !key || weights === undefined) return null;
  const [kv, compute, reserve] = budget.overhead[key][cache][place];
  return { engine, cache, weights, kv, compute, reserve, total: weights + kv + compute + reserve, usable: machine.usable[engine] };
}

// {variant, need, rank, reason}; rank 0: fits and was measured, 0.5: the same with little room, 1: fits, 2: does not
// fit, 3: not for this machine.
function judge(variant, machine, place, engine, bits) {
  const out = (reason, need = null) => ({ variant, need, rank: 3, reason });
  const wanted = variant.engines.filter((e) => engine === "any" || e === engine);
  if (!wanted.length) return out(`${titleOf(engine)} does not read it`);
  const runs = wanted.filter((e) => machine.overhead[e]);
  if (!runs.length) return out(`${wanted.map(titleOf).join(" and ")} cannot run it on ${machine.title}`);
  const found = runs.map((e) => needs(variant, e, machine, place, bits)).filter(Boolean);
  if (!found.length) return out(`${runs.map(titleOf).join(" and ")} cannot keep a KV cache of ${bits} bits for it`);
  const need = found.reduce((best, n) => (n.usable - n.total > best.usable - best.total ? n : best));
  if (variant.state === "failed") return out(`failed its checks: ${variant.why}`, need);
  if (variant.state === "incomplete") return out(`incomplete: ${variant.why}`, need);
  const suited = !machine.chips.length || !variant.hardware.length || variant.hardware.some((h) => machine.chips.includes(h));
  if (!suited) return out(`made for ${variant.hardware.join(", ")}`, need);
  const spare = need.usable - need.total;
  const each = machine.devices > 1 ? " on each device" : "";
  const takes = `${size(need.total)} of ${size(need.usable)}${each} in ${titleOf(need.engine)}`;
  if (spare < 0) return { variant, need, rank: 2, reason: `does not fit: ${takes}, ${size(-spare)} too much` };
  const kl = variant.kl === null ? "its distance from the source was not measured" : `mean KL ${variant.kl.toFixed(5)}`;
  const warned = variant.warnings ? `, ${variant.warnings} warning${variant.warnings === 1 ? "" : "s"}` : "";
  const unverified = variant.state === "unverified" ? ", not verified" : warned;
  const tight = spare < budget.headroom * need.usable;
  const rank = variant.kl === null ? 1 : tight ? 0.5 : 0;
  return { variant, need, rank, reason: `${kl}${unverified}; ${takes}, ${tight ? "only " : ""}${size(spare)} to spare` };
}

// What comes first among measured variants that fit: the less, the better.
const PREFERENCES = {
  balance: (j) => -(j.variant.top1 ** budget.power) / j.need.weights,
  close: (j) => j.variant.kl,
  speed: (j) => j.need.weights,
};

function ranked(machine, place, engine, bits, prefer) {
  const order = { 0: PREFERENCES[prefer], 0.5: PREFERENCES[prefer], 1: (j) => -j.need.weights, 2: (j) => j.need.total - j.need.usable, 3: () => 0 };
  return budget.variants
    .map((variant) => judge(variant, machine, place, engine, bits))
    .sort((a, b) => a.rank - b.rank || order[a.rank](a) - order[b.rank](b) || (a.need && b.need ? a.need.total - b.need.total : 0));
}

const fits = (judged) => judged.rank < 2;

// The longest listed context at which the variant still fits, null for none.
function longest(variant, machine, engine, bits) {
  const fitting = budget.contexts.filter((_, place) => fits(judge(variant, machine, place, engine, bits)));
  return fitting.length ? fitting[fitting.length - 1] : null;
}

function bar({ weights, kv, compute, reserve, total, usable }) {
  const whole = Math.max(total, usable);
  const drawn = element("div", "bar");
  drawn.setAttribute("aria-hidden", "true");
  for (const [part, bytes] of [["weights", weights], ["cache", kv], ["compute", compute], ["reserve", reserve]]) {
    const piece = element("i", `part-${part}`);
    piece.style.width = `${(100 * bytes) / whole}%`;
    drawn.append(piece);
  }
  const mark = element("i", "mark");
  mark.style.left = `calc(${(100 * Math.max(usable, 0)) / whole}% - 3px)`;
  drawn.append(mark);
  return drawn;
}

// Text between backticks is shown as code.
function noteOf(note) {
  const made = element("p", "quiet-text");
  note.split("`").forEach((part, place) => made.append(place % 2 ? element("code", "", part) : part));
  made.append(".");
  return made;
}

// The command that runs it, in the folder of this page.
function commandOf({ variant, need }, machine, context) {
  const share = machine.utilization;
  const several = machine.devices > 1;
  const words = {
    vllm: ["vllm serve", variant.path, `--max-model-len ${context}`, several && `--tensor-parallel-size ${machine.devices}`, share && `--gpu-memory-utilization ${share}`],
    sglang: ["python -m sglang.launch_server --model-path", variant.path, `--context-length ${context}`, several && `--tp ${machine.devices}`, share && `--mem-fraction-static ${share}`],
    "llama.cpp": ["llama-server -m", variant.path, `-c ${context}`],
  }[need.engine];
  return [...words, budget.flags[need.engine][need.cache]].filter(Boolean).join(" ");
}

function answerOf(best, all, machine, engine, bits, context, prefer) {
  const box = byId("answer");
  box.replaceChildren();
  box.classList.toggle("none", !best);
  box.dataset.recommended = best ? best.variant.recipe : "";
  if (!best) {
    box.append(element("h3", "", "None fits"));
    const shorter = all.map((j) => ({ j, tokens: longest(j.variant, machine, engine, bits) })).filter((x) => x.tokens !== null);
    shorter.sort((a, b) => b.tokens - a.tokens);
    const hint = shorter.length
      ? `${shorter[0].j.variant.label} fits with a context of up to ${count(shorter[0].tokens)} tokens.`
      : "No variant fits at any listed context length: choose a larger machine, more devices, or another engine.";
    box.append(element("p", "", hint));
    return;
  }
  const { variant, need } = best;
  const number = all.filter(fits).length;
  const heading = element("h3");
  const link = element("a", "", variant.label);
  link.href = variant.link;
  heading.append(link);
  const why =
    variant.kl === null
      ? `The largest of the ${number} that fit; their distance from the source was not measured.`
      : number > 1
        ? `${FIRST[prefer]} of the ${number} variants that fit: mean KL ${variant.kl.toFixed(5)}, top-1 ${(100 * variant.top1).toFixed(1)}%.`
        : `The only one that fits: mean KL ${variant.kl.toFixed(5)}, top-1 ${(100 * variant.top1).toFixed(1)}%.`;
  const each = machine.devices > 1 ? " on each device" : "";
  const parts = `weights ${size(need.weights)}, KV cache ${size(need.kv)}, compute buffers ${size(need.compute)}, reserve ${size(need.reserve)}`;
  box.append(
    heading,
    element("p", "", why),
    element("p", "", `Takes ${size(need.total)} of the ${size(need.usable)} that ${titleOf(need.engine)} may use${each} at ${count(context)} tokens: ${parts}.`),
    element("pre", "", commandOf(best, machine, context)),
    element("p", "", `Its longest listed context there: ${count(longest(variant, machine, engine, bits))} tokens.`),
  );
  if (machine.note) box.append(noteOf(machine.note));
}

function rankingOf(all) {
  const list = byId("ranking");
  list.replaceChildren();
  for (const { variant, need, rank, reason } of all) {
    const item = element("li", rank < 2 ? "" : "out");
    item.dataset.recipe = variant.recipe;
    item.dataset.rank = rank;
    if (need) item.dataset.total = need.total;
    item.append(element("span", "name", variant.label));
    if (need) item.append(bar(need));
    item.append(element("p", "reason", reason));
    list.append(item);
  }
}

const FIRST = { balance: "Agrees most with the source for its bytes", close: "Closest to the source", speed: "Smallest" };
const FIELDS = ["machine", "context", "engine", "cache", "prefer", "own-memory", "own-unit", "own-devices"];

function update() {
  byId("own").hidden = byId("machine").value !== "own";
  const machine = chosenMachine();
  const place = budget.contexts.indexOf(Number(byId("context").value));
  const [engine, bits, prefer] = ["engine", "cache", "prefer"].map((id) => byId(id).value);
  const all = ranked(machine, place, engine, bits, prefer);
  answerOf(all.find(fits), all, machine, engine, bits, budget.contexts[place], prefer);
  rankingOf(all);
}

// The choice is kept in the address, so that it can be linked: #choose?machine=h100&context=32768
function remember() {
  const chosen = new URLSearchParams(FIELDS.filter((id) => !byId("own").hidden || !id.startsWith("own")).map((id) => [id, byId(id).value]));
  history.replaceState(null, "", `#choose?${chosen}`);
}

function recall() {
  const [, query] = location.hash.split("?");
  for (const [id, value] of new URLSearchParams(query || "")) {
    if (!FIELDS.includes(id)) continue;
    const before = byId(id).value;
    byId(id).value = value;
    if (byId(id).value === "") byId(id).value = before;
  }
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

function fill() {
  const groups = new Map();
  for (const machine of budget.machines) {
    const maker = machine.chips[0] || "Others";
    if (!groups.has(maker)) groups.set(maker, Object.assign(document.createElement("optgroup"), { label: maker }));
    groups.get(maker).append(option(machine.name, machine.title));
  }
  byId("machine").append(...groups.values(), option("own", "Another machine ..."));
  byId("context").append(...budget.contexts.map((tokens) => option(tokens, count(tokens))));
  const usual = budget.contexts.filter((tokens) => tokens <= 32768);
  byId("context").value = usual[usual.length - 1] || budget.contexts[0];
  byId("engine").append(option("any", "any"), ...budget.engines.map((e) => option(e.name, e.title)));
  byId("own-devices").append(...budget.own.devices.map((devices) => option(devices, devices)));
}

if (budget.variants.length) {
  fill();
  recall();
  for (const id of ["chooser", "answer", "ranking", "parts", "how"]) byId(id).hidden = false;
  byId("chooser").addEventListener("submit", (event) => event.preventDefault());
  byId("chooser").addEventListener("input", () => {
    update();
    remember();
  });
  window.addEventListener("hashchange", () => {
    recall();
    update();
  });
  update();
}
