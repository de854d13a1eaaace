"use strict";
// View: base `from` (a fraction is possible) is at the canvas's left edge, and `span` bases fit its width. The view lies
// in the region.
const data = JSON.parse(document.getElementById("data").textContent);
const strip = document.getElementById("strip"), pen = strip.getContext("2d"), tip = document.getElementById("tip");
const select = document.getElementById("region"), place = document.getElementById("place");
const COLOURS = [["#1f6feb", "#93beff"], ["#c2410c", "#fdba8c"]];
const BASES = { A: "#2e7d32", C: "#1565c0", G: "#e08e00", T: "#c62828", N: "#8c959f" };
const GUTTER = 104, SMALLEST_SPAN = 12, LETTER_PIXELS = 7, BLOCK_PIXELS = 1.5;
let shown, view = { from: 0, span: 1 }, rows = [];

function bytes(text) { return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)); }

function unpack(region) {
  if (region.stages) return region;
  const length = region.letters.length;
  region.stages = region.boundaries.map((text, stage) => {
    const bits = bytes(text), p = bytes(region.probabilities[stage]), starts = [];
    const count = new Uint32Array(length + 1), sum = new Float64Array(length + 1), most = p;
    for (let i = 0; i < length; i++) {
      const starting = (bits[i >> 3] >> (7 - (i & 7))) & 1;
      if (starting) starts.push(i);
      count[i + 1] = count[i] + starting;
      sum[i + 1] = sum[i] + p[i] / 255;
    }
    return { starts, count, sum, p: most };
  });
  region.repeats = [];
  for (const lower of region.letters.matchAll(/[a-z]+/g)) region.repeats.push([lower.index, lower.index + lower[0].length]);
  region.tracks = region.features.map((track) => {
    const ends = [];  // end of the last feature in each lane; features that overlap lie in different lanes
    return track.slice().sort((a, b) => a[0] - b[0]).map(([start, end, kind, name, strand]) => {
      let lane = ends.findIndex((last) => last <= start);
      if (lane < 0) lane = Math.min(ends.length, 5);
      ends[lane] = end;
      return { start: start - region.start, end: end - region.start, kind, name, strand, lane };
    });
  });
  return region;
}

// The chunk that holds base i: [start, end). A chunk that the region cuts reaches to the region's end.
function chunk(stage, i) {
  const { starts, count } = shown.stages[stage], index = count[i + 1] - 1;
  return [index < 0 ? 0 : starts[index], index + 1 < starts.length ? starts[index + 1] : shown.letters.length, index + 1];
}

function scale() { return (strip.clientWidth - GUTTER) / view.span; }
function x(base) { return GUTTER + (base - view.from) * scale(); }
function baseAt(pixel) { return view.from + (pixel - GUTTER) / scale(); }

function look(from, span) {
  const length = shown.letters.length;
  view.span = Math.min(length, Math.max(Math.min(SMALLEST_SPAN, length), span));
  view.from = Math.min(length - view.span, Math.max(0, from));
  draw();
}
function zoom(factor, pixel) {
  const at = pixel === undefined ? GUTTER + (strip.clientWidth - GUTTER) / 2 : Math.max(GUTTER, pixel), base = baseAt(at);
  const span = Math.min(shown.letters.length, Math.max(SMALLEST_SPAN, view.span * factor));
  look(base - (at - GUTTER) * span / (strip.clientWidth - GUTTER), span);
}
function choose(index) {
  shown = unpack(data.regions[index]);
  select.value = String(index);
  look(0, shown.letters.length);
}

// `contig:start-end`, `start-end`, or a position: 1-based, ends included, as the coordinates shown.
function go(text) {
  const found = /^\s*(?:(.+):)?([\d,]+)(?:\s*-\s*([\d,]+))?\s*$/.exec(text);
  if (!found) return false;
  const number = (digits) => Number(digits.replaceAll(",", ""));
  const start = number(found[2]) - 1, end = found[3] ? number(found[3]) : start + 1;
  const holds = (r) => (!found[1] || r.contig === found[1]) && start >= r.start && end <= r.start + r.letters.length;
  const index = holds(shown) ? data.regions.indexOf(shown) : data.regions.findIndex(holds);
  if (index < 0 || end <= start) return false;
  if (data.regions[index] !== shown) choose(index);
  if (found[3]) look(start - shown.start, end - start);
  else look(start - shown.start - 40, 81);
  return true;
}

function draw() {
  const ratio = window.devicePixelRatio || 1, width = strip.clientWidth;
  const plan = [["overview", 34], ["ruler", 30], ["sequence", 24]];
  shown.stages.forEach((_, stage) => plan.push([`p${stage}`, 64], [`chunks${stage}`, 34]));
  plan.push(["repeats", 22]);
  shown.tracks.forEach((track, t) => {
    const lanes = Math.max(1, ...track.map((f) => f.lane + 1));
    plan.push([`track${t}`, 10 + 18 * lanes]);
  });
  let top = 0;
  rows = plan.map(([name, height]) => ({ name, top, height, bottom: (top += height) }));
  strip.style.height = `${top + 8}px`;
  strip.width = Math.round(width * ratio); strip.height = Math.round((top + 8) * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, width, top + 8);
  for (const row of rows) {
    pen.save();
    if (row.name === "overview") drawOverview(row);
    else {
      label(row);
      pen.beginPath(); pen.rect(GUTTER, row.top, width - GUTTER, row.height); pen.clip();
      if (row.name === "ruler") drawRuler(row);
      else if (row.name === "sequence") drawSequence(row);
      else if (row.name === "repeats") drawRepeats(row);
      else if (row.name.startsWith("p")) drawProbability(row, Number(row.name[1]));
      else if (row.name.startsWith("chunks")) drawChunks(row, Number(row.name[6]));
      else drawTrack(row, shown.tracks[Number(row.name.slice(5))]);
    }
    pen.restore();
  }
  const [first, last] = edges();
  if (document.activeElement !== place) place.value = `${shown.contig}:${comma(first + 1)}-${comma(last)}`;
  document.getElementById("span").textContent = `${comma(last - first)} bases`;
}
function edges() {
  return [Math.floor(view.from + 1e-6), Math.ceil(view.from + view.span - 1e-6)].map((i, end) => shown.start + i);
}
function comma(number) { return number.toLocaleString("en-US"); }

function label(row) {
  const names = { ruler: "", sequence: "sequence", repeats: "soft-masked", p0: "p, stage 0", p1: "p, stage 1",
    chunks0: "chunks", chunks1: "outer chunks" };
  const text = names[row.name] ?? data.annotations[Number(row.name.slice(5))] ?? row.name;
  pen.fillStyle = "#59636e"; pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle"; pen.textAlign = "right";
  pen.fillText(text.length > 15 ? text.slice(0, 14) + "…" : text, GUTTER - 8, row.top + Math.min(row.height, 34) / 2);
}
function drawOverview(row) {
  const width = strip.clientWidth - GUTTER, length = shown.letters.length, { count } = shown.stages[1] ?? shown.stages[0];
  pen.fillStyle = "#59636e"; pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle"; pen.textAlign = "right";
  pen.fillText("overview", GUTTER - 8, row.top + 17);
  const all = Math.max(1e-9, count[length] / length);
  for (let px = 0; px < width; px++) {
    const a = Math.floor(px / width * length), b = Math.max(a + 1, Math.floor((px + 1) / width * length));
    pen.fillStyle = `rgba(194, 65, 12, ${Math.min(0.85, 0.3 * (count[b] - count[a]) / (b - a) / all)})`;
    pen.fillRect(GUTTER + px, row.top + 8, 1, 16);
  }
  pen.strokeStyle = "#1f2328"; pen.lineWidth = 1.5;
  const left = GUTTER + view.from / length * width, wide = Math.max(3, view.span / length * width);
  pen.strokeRect(left, row.top + 5, Math.min(wide, GUTTER + width - left - 1), 22);
}
function drawRuler(row) {
  const rough = view.span / Math.max(2, (strip.clientWidth - GUTTER) / 120), power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough));
  pen.fillStyle = pen.strokeStyle = "#59636e"; pen.font = "11px system-ui, sans-serif"; pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  for (let at = Math.ceil((shown.start + view.from) / step) * step; at <= shown.start + view.from + view.span; at += step) {
    const middle = x(at - shown.start - 0.5);  // the tick labelled 100 stands over the hundredth base
    const half = pen.measureText(comma(at)).width / 2;
    if (middle - half > GUTTER && middle + half < strip.clientWidth) pen.fillText(comma(at), middle, row.top + 16);
    pen.fillRect(middle, row.top + 21, 1, 6);
  }
}
function visible() {
  return [Math.max(0, Math.floor(view.from)), Math.min(shown.letters.length, Math.ceil(view.from + view.span))];
}
function drawSequence(row) {
  const [from, to] = visible(), wide = scale();
  pen.textAlign = "center"; pen.textBaseline = "middle";
  pen.font = `${Math.min(15, wide * 1.3)}px ui-monospace, Menlo, Consolas, monospace`;
  if (wide < 1) {
    pen.fillStyle = "#8c959f"; pen.font = "11px system-ui, sans-serif"; pen.textAlign = "left";
    pen.fillText("zoom in to see bases", GUTTER + 6, row.top + 12);
    return;
  }
  for (let i = from; i < to; i++) {
    const letter = shown.letters[i];
    pen.fillStyle = BASES[letter.toUpperCase()] ?? BASES.N;
    if (wide >= LETTER_PIXELS) pen.fillText(letter, x(i + 0.5), row.top + 12);
    else pen.fillRect(x(i), row.top + 7, Math.max(1, wide - 0.3), 10);
  }
}
function drawProbability(row, stage) {
  const { p, sum, count } = shown.stages[stage], [from, to] = visible(), wide = scale(), base = row.bottom - 6;
  const height = row.height - 14, asked = stage ? shown.stages[stage - 1].count : null;
  pen.strokeStyle = "#e6e8eb"; pen.beginPath(); pen.moveTo(GUTTER, base - height / 2); pen.lineTo(strip.clientWidth, base - height / 2); pen.stroke();
  pen.fillStyle = COLOURS[stage % 2][0];
  if (wide >= BLOCK_PIXELS) {
    for (let i = from; i < to; i++) {
      const tall = p[i] / 255 * height;
      pen.globalAlpha = count[i + 1] > count[i] ? 1 : 0.4;
      pen.fillRect(x(i) + wide * 0.1, base - tall, Math.max(1, wide * 0.8), tall);
    }
    return;
  }
  pen.globalAlpha = 0.75;
  for (let px = GUTTER; px < strip.clientWidth; px++) {
    const a = Math.max(from, Math.floor(baseAt(px))), b = Math.min(to, Math.max(a + 1, Math.floor(baseAt(px + 1))));
    const places = asked ? asked[b] - asked[a] : b - a;  // a later router reads only chunks of the stage before
    if (b > a && places) { const tall = (sum[b] - sum[a]) / places * height; pen.fillRect(px, base - tall, 1, tall); }
  }
}
function drawChunks(row, stage) {
  const { starts, count } = shown.stages[stage], [from, to] = visible(), total = shown.letters.length;
  const mean = total / Math.max(1, starts.length), colours = COLOURS[stage % 2];
  if (mean * scale() >= 2 * BLOCK_PIXELS) {
    for (let i = from; i < to;) {
      const [start, end, number] = chunk(stage, i), wide = x(end) - x(start);
      pen.fillStyle = colours[number % 2];
      pen.fillRect(x(start), row.top + 6, Math.max(0.7, wide - Math.min(1.5, wide * 0.15)), row.height - 14);
      if (wide > 34) {
        pen.fillStyle = number % 2 ? "#1f2328" : "#fff"; pen.font = "11px system-ui, sans-serif";
        pen.textAlign = "center"; pen.textBaseline = "middle";
        pen.fillText(`${end - start}`, (Math.max(GUTTER, x(start)) + Math.min(strip.clientWidth, x(end))) / 2, row.top + row.height / 2 - 1);
      }
      i = end;
    }
    return;
  }
  for (let px = GUTTER; px < strip.clientWidth; px++) {
    const a = Math.max(0, Math.floor(baseAt(px))), b = Math.min(total, Math.max(a + 1, Math.floor(baseAt(px + 1))));
    if (b <= a) continue;
    pen.fillStyle = colours[0];
    pen.globalAlpha = Math.min(1, Math.max(0.04, 0.45 * (count[b] - count[a]) / (b - a) * mean));
    pen.fillRect(px, row.top + 6, 1, row.height - 14);
  }
}
function drawRepeats(row) {
  pen.fillStyle = "#6f42c1";
  for (const [start, end] of shown.repeats) {
    if (end > view.from && start < view.from + view.span) pen.fillRect(x(start), row.top + 7, Math.max(1, x(end) - x(start)), 8);
  }
}
function drawTrack(row, track) {
  pen.font = "11px system-ui, sans-serif"; pen.textBaseline = "middle"; pen.textAlign = "left";
  for (const f of track) {
    if (f.end <= view.from || f.start >= view.from + view.span) continue;
    const left = Math.max(GUTTER, x(f.start)), wide = Math.max(1, Math.min(strip.clientWidth, x(f.end)) - left);
    pen.fillStyle = f.strand === "-" ? "#a3d3c8" : "#7cc4b4";
    pen.fillRect(left, row.top + 4 + 18 * f.lane, wide, 14);
    const name = `${f.name}${f.strand === "+" ? " →" : f.strand === "-" ? " ←" : ""}`;
    if (pen.measureText(name).width < wide - 8) { pen.fillStyle = "#1f2328"; pen.fillText(name, left + 4, row.top + 11 + 18 * f.lane); }
  }
}

function describe(pixel, height) {
  const i = Math.floor(baseAt(pixel));
  if (pixel < GUTTER || i < 0 || i >= shown.letters.length) return "";
  const lines = [`${shown.contig}:${comma(shown.start + i + 1)}  ${shown.letters[i]}`];
  shown.stages.forEach((stage, s) => {
    const [start, end] = chunk(s, i), asked = !s || shown.stages[s - 1].count[i + 1] > shown.stages[s - 1].count[i];
    const p = asked ? `p ${(stage.p[i] / 255).toFixed(2)}` : "not asked here";
    lines.push(`${s ? "outer chunk" : "chunk"}: ${comma(shown.start + start + 1)}-${comma(shown.start + end)}, ${comma(end - start)} bases; ${p}`);
  });
  if (shown.letters[i] !== shown.letters[i].toUpperCase()) lines.push("soft-masked");
  shown.tracks.forEach((track, t) => {
    for (const f of track.filter((g) => g.start <= i && i < g.end).slice(0, 3)) {
      lines.push(`${data.annotations[t]}: ${f.name}${f.kind === f.name ? "" : ` (${f.kind})`} ${f.strand === "." ? "" : f.strand}`);
    }
  });
  return lines.join("\n");
}
function hover(event) {
  const box = strip.getBoundingClientRect(), text = describe(event.clientX - box.left, event.clientY - box.top);
  tip.style.display = text ? "block" : "none";
  tip.textContent = text;
  const right = event.clientX + 396 > window.innerWidth;
  tip.style.left = right ? "" : `${event.clientX + 14}px`;
  tip.style.right = right ? `${window.innerWidth - event.clientX + 14}px` : "";
  tip.style.top = `${event.clientY + 16}px`;
}
function nextChunk(direction) {
  const { starts } = shown.stages[shown.stages.length - 1], middle = view.from + view.span / 2;
  const found = direction > 0 ? starts.find((s) => s > middle + 0.5) : starts.findLast((s) => s < middle - 0.5);
  if (found !== undefined) look(found - view.span / 2, view.span);
}

let held = null;
strip.addEventListener("pointerdown", (event) => {
  const box = strip.getBoundingClientRect();
  if (event.clientY - box.top < rows[0].bottom) {
    const share = (event.clientX - box.left - GUTTER) / (strip.clientWidth - GUTTER);
    look(share * shown.letters.length - view.span / 2, view.span);
    return;
  }
  held = { at: event.clientX, from: view.from };
  strip.setPointerCapture(event.pointerId);
});
strip.addEventListener("pointermove", (event) => {
  if (held) { tip.style.display = "none"; look(held.from - (event.clientX - held.at) / scale(), view.span); } else hover(event);
});
strip.addEventListener("pointerup", () => { held = null; });
strip.addEventListener("pointercancel", () => { held = null; });
strip.addEventListener("pointerleave", () => { tip.style.display = "none"; });
strip.addEventListener("wheel", (event) => {
  event.preventDefault();
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  if (sideways) look(view.from + (event.deltaX || event.deltaY) / scale(), view.span);
  else zoom(Math.exp(event.deltaY / 400), event.clientX - strip.getBoundingClientRect().left);
}, { passive: false });
document.addEventListener("keydown", (event) => {
  if (event.target === place || event.target === select || event.ctrlKey || event.metaKey || event.altKey) return;
  const stride = view.span * (event.shiftKey ? 0.9 : 0.2);
  const keys = {
    ArrowLeft: () => look(view.from - stride, view.span), ArrowRight: () => look(view.from + stride, view.span),
    "+": () => zoom(0.5), "=": () => zoom(0.5), ArrowUp: () => zoom(0.5), "-": () => zoom(2), ArrowDown: () => zoom(2),
    Home: () => look(0, view.span), End: () => look(Infinity, view.span), 0: () => look(0, Infinity),
    n: () => nextChunk(1), p: () => nextChunk(-1),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
document.getElementById("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  place.classList.toggle("wrong", !go(place.value));
  if (!place.classList.contains("wrong")) { strip.focus(); draw(); }
});
document.getElementById("in").addEventListener("click", () => zoom(0.5));
document.getElementById("out").addEventListener("click", () => zoom(2));
document.getElementById("all").addEventListener("click", () => look(0, Infinity));
select.addEventListener("change", () => choose(Number(select.value)));
window.addEventListener("resize", draw);

data.regions.forEach((region, index) => {
  const option = document.createElement("option");
  option.value = String(index);
  option.textContent = `${region.contig}:${comma(region.start + 1)}-${comma(region.start + region.letters.length)}`;
  select.append(option);
});
choose(0);
if (location.hash.length > 1) go(decodeURIComponent(location.hash.slice(1)));
