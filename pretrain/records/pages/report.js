"use strict";
// Draws the charts of a report with uPlot. The page's data says which curves there are; no metric is known by name here.
// A page that comes from `dnachunker report --serve` asks for news, and keeps zoom and hidden curves when some arrive.
(() => {
  const AXES = { steps: "steps", bases: "bases", flops: "model FLOPs", hours: "time" };
  const REFRESH_MS = 5000;
  const WHOLE = [1, 2, 5].flatMap((n) => [...Array(10).keys()].map((power) => n * 10 ** power)).sort((a, b) => a - b);
  const touch = matchMedia("(hover: none)").matches;
  let data = JSON.parse(document.getElementById("data").textContent);
  let axis = data.axes[0];
  let drawn = []; // {chart, plot}

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (number) => style(number < 0 ? "--muted" : `--c${number % 8}`);

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e13 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e");
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= unit) return `${Number((value / (letter === "k" ? 1e3 : unit)).toPrecision(4))} ${letter}`;
    }
    return String(Number(value.toPrecision(5)));
  }

  function time(hours) {
    const seconds = hours * 3600;
    if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
    return seconds < 7200 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number(hours.toPrecision(4))} h`;
  }

  const place = (value) => (axis === "hours" ? time(value) : short(value));

  // The columns of a chart, aligned on one x axis: x, one for each curve, and the lower edges of areas at the end.
  function columns(chart) {
    const edges = chart.curves.filter((curve) => curve.below).map((curve) => ({ ...curve, key: curve.below }));
    const tables = [...chart.curves, ...edges].map(({ run, kind, key }) => {
      const table = data.tables[run][kind];
      const kept = (table[axis] || []).map((x, row) => [x, table[key][row]]).filter(([x]) => x !== null);
      return [kept.map(([x]) => x), kept.map(([, y]) => y)];
    });
    return uPlot.join(tables);
  }

  function yRange(chart) {
    return (plot, low, high) => {
      if (low === null || low === undefined) return [0, 1];
      if (chart.log) return [10 ** Math.floor(Math.log10(Math.max(low, 1e-12))), 10 ** Math.ceil(Math.log10(Math.max(high, 1e-11)) + 1e-9)];
      if (typeof chart.ceiling === "number" && low < chart.ceiling) high = Math.min(high, chart.ceiling);
      if ("mark" in chart) [low, high] = [Math.min(low, chart.mark), Math.max(high, chart.mark)];
      const pad = (high - low || Math.abs(high) || 1) * 0.06;
      return [chart.zero ? Math.min(0, low) : low - pad, "top" in chart ? Math.max(chart.top, high) : high + pad];
    };
  }

  function options(chart, width, height) {
    const several = data.tables.length > 1;
    const last = (values) => values.findLast((value) => value !== null && value !== undefined);
    const series = chart.curves.map((curve) => {
      const stroke = colour(curve.colour) + (curve.style === "faint" ? "80" : "");
      return {
        label: curve.label, stroke, spanGaps: true,
        dash: curve.dash.length ? curve.dash : curve.colour > 7 ? [8, 3] : undefined,
        width: curve.style === "faint" || curve.colour < 0 ? 1.2 : 2,
        points: { show: curve.style === "dots" ? true : curve.style === "faint" ? false : undefined, size: 6, fill: stroke },
        value: (plot, value, index, row) => {
          const told = row === null || row === undefined ? last(plot.data[index]) : value;
          return told === null || told === undefined ? "–" : short(told); // without a pointer, the latest value
        },
      };
    });
    const bands = [];
    chart.curves.forEach((curve, index) => {
      if (!curve.below) return;
      bands.push({ series: [index + 1, series.length + 1], fill: `${colour(curve.colour)}22` });
      series.push({ label: "", stroke: `${colour(curve.colour)}80`, width: 1.2, spanGaps: true, points: { show: false }, class: "edge" });
    });
    const line = { stroke: style("--muted"), grid: { stroke: style("--line"), width: 0.7 }, font: "12px system-ui, sans-serif",
      ticks: { stroke: style("--line"), width: 0.7, size: 5 } };
    return {
      width, height, series: [{ label: AXES[axis], value: (plot, value) => (value === null || value === undefined ? "" : place(value)) }, ...series],
      bands, padding: [10, 12, 0, 0],
      scales: { x: { time: false }, y: { range: yRange(chart), distr: chart.log ? 3 : 1 } },
      axes: [
        { ...line, space: 64, size: 34, incrs: axis === "steps" ? WHOLE : undefined, values: (plot, splits) => splits.map(place) },
        { ...line, space: 34, values: (plot, splits) => splits.map((value) => (value === null ? "" : short(value))),
          size: (plot, values) => 16 + 7 * Math.max(3, ...(values || []).map((value) => (value || "").length)) },
      ],
      cursor: { sync: { key: "report", setSeries: false, scales: ["x", null] }, hover: { skip: [null, undefined] } },
      legend: { markers: { width: 2, dash: (plot, index) => (plot.series[index].dash ? "dashed" : "solid") } },
      hooks: { draw: [(plot) => {
        const { ctx, bbox } = plot;
        ctx.save();
        ctx.lineWidth = devicePixelRatio;
        ctx.beginPath();
        ctx.strokeStyle = style("--amber");
        for (const mark of several ? [] : data.marks[0]) {
          const x = plot.valToPos(mark[axis], "x", true);
          if (x >= bbox.left && x <= bbox.left + bbox.width) { ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); }
        }
        if ("mark" in chart) {
          const y = plot.valToPos(chart.mark, "y", true);
          ctx.moveTo(bbox.left, y);
          ctx.lineTo(bbox.left + bbox.width, y);
        }
        ctx.stroke();
        ctx.restore();
      }] },
    };
  }

  // uPlot zooms by mouse alone: here a finger that moves sideways selects, and a double tap resets as a double click does.
  function zoomByTouch(plot) {
    const { over } = plot;
    const place = (event) => event.touches[0].clientX - over.getBoundingClientRect().left;
    let from = 0;
    over.addEventListener("touchstart", (event) => { from = place(event); }, { passive: true });
    over.addEventListener("touchmove", (event) => {
      const to = place(event);
      plot.setSelect({ left: Math.min(from, to), width: Math.abs(to - from), top: 0, height: over.clientHeight }, false);
    }, { passive: true });
    over.addEventListener("touchend", () => {
      const { left, width } = plot.select;
      const [min, max] = [left, left + width].map((pixel) => plot.posToVal(pixel, "x"));
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      if (width > 20) drawn.forEach((entry) => entry.plot.setScale("x", { min, max }));
    });
  }

  const heightOf = (box) => (box.parentElement.firstChild === box && box.parentElement.id === "charts" && box.clientWidth > 600 ? 340 : 230);

  function draw() {
    const hidden = new Set(drawn.flatMap(({ chart, plot }) =>
      plot.series.filter((series) => !series.show).map((series) => `${chart.id}/${series.label}`)));
    for (const { plot } of drawn) plot.destroy();
    for (const box of document.querySelectorAll(".charts")) box.replaceChildren();
    document.getElementById("section-system").hidden = !data.charts.some((chart) => chart.group === "system");
    drawn = data.charts.map((chart) => {
      const box = document.createElement("div");
      box.className = "chart";
      box.innerHTML = "<h3></h3>";
      box.firstChild.textContent = chart.title;
      if (chart.unit) {
        const unit = document.createElement("small");
        unit.textContent = `  ${chart.unit}`;
        box.firstChild.append(unit);
      }
      document.getElementById(chart.group ? `charts-${chart.group}` : "charts").append(box);
      const plot = new uPlot(options(chart, box.clientWidth, heightOf(box)), columns(chart), box);
      plot.series.forEach((series, index) => {
        if (hidden.has(`${chart.id}/${series.label}`)) plot.setSeries(index, { show: false });
      });
      box.plot = plot;
      zoomByTouch(plot);
      new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: heightOf(box) })).observe(box);
      return { chart, plot };
    });
  }

  // New numbers for the same curves: a view that was zoomed into stays.
  function refill() {
    for (const entry of drawn) {
      const { plot, chart } = entry;
      const x = plot.data[0], { min, max } = plot.scales.x;
      const zoomed = x.length && (min > x[0] || max < x[x.length - 1]);
      plot.setData(columns(chart), !zoomed);
      if (zoomed) plot.setScale("x", { min, max });
    }
  }

  function buttons() {
    const group = document.querySelector(".axes");
    group.replaceChildren(...data.axes.map((name) => {
      const button = document.createElement("button");
      button.textContent = name === "flops" ? "FLOPs" : AXES[name];
      button.setAttribute("aria-pressed", name === axis);
      button.onclick = () => { axis = name; buttons(); draw(); };
      return button;
    }));
  }

  const shape = (of) => JSON.stringify([of.axes, of.charts.map(({ id, curves }) => [id, curves])]);

  function renew(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const next = page.getElementById("data");
    if (!next) return; // not a report: the run has not taken a step yet
    for (const id of ["head", "body"]) document.getElementById(id).innerHTML = page.getElementById(id).innerHTML;
    const before = shape(data);
    data = JSON.parse(next.textContent);
    if (shape(data) === before) {
      drawn.forEach((entry, index) => { Object.assign(entry.chart, data.charts[index]); });
      refill();
    } else {
      buttons();
      draw();
    }
  }

  function listen(hint) {
    let known = "", since = "";
    async function ask() {
      if (document.hidden) return;
      try {
        const text = await (await fetch(location.href, { cache: "no-cache" })).text();
        since = new Date().toLocaleTimeString();
        if (text !== known) renew(text);
        known = text;
        hint.textContent = `Live, last asked at ${since}.`;
      } catch {
        hint.textContent = `The server does not answer; this is the state of ${since || "the start"}.`;
      }
    }
    setInterval(ask, REFRESH_MS);
    document.addEventListener("visibilitychange", ask);
  }

  const hint = document.getElementById("hint");
  if (touch) hint.textContent = "Tap for values, drag sideways to zoom, double-tap to reset. Tap a name to hide its curve.";
  buttons();
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (data.live && location.protocol.startsWith("http")) listen(hint);
})();
