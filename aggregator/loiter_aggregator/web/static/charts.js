// Draws charts from the figures in the page, and draws them anew in place when the page has newer ones.
"use strict";
(() => {
  const drawn = new WeakMap(); // element to { plot, data }
  const sync = window.uPlot.sync("loiter");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const pad = (number) => String(number).padStart(2, "0");
  const clock = (seconds, long) => {
    const date = new Date(seconds * 1000);
    const day = `${date.getUTCFullYear()}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
    const time = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}`;
    return long ? `${day} ${time}:${pad(date.getUTCSeconds())} UTC` : time;
  };
  const figure = (value, unit) => {
    if (value === null || value === undefined) return "-";
    if (unit === "share") return `${(100 * value).toFixed(1)} %`;
    return Math.round(value).toLocaleString("en");
  };
  const short = (value, unit) => {
    if (unit === "share") return `${Math.round(100 * value)} %`;
    for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= size) return `${+(value / size).toFixed(1)}${name}`;
    }
    return Number.isInteger(value) ? String(value) : "";
  };

  const LINES = {
    line: () => ({ stroke: colour("accent"), width: 1.5, fill: colour("accent-wash") }),
    forecast: () => ({ stroke: colour("accent"), width: 1.5, dash: [6, 4] }),
    edge: () => ({ stroke: colour("line-strong"), width: 1 }),
    limit: () => ({ stroke: colour("bad"), width: 1.5, dash: [2, 3] }),
  };

  // The value under the pointer stands in the place of the latest.
  const follow = (holder, data) => (plot) => {
    const caption = holder.closest("figure")?.querySelector("figcaption");
    if (!caption) return;
    const value = caption.querySelector(".value");
    const what = caption.querySelector(".what");
    const at = caption.querySelector(".at");
    const index = plot.cursor.idx;
    const over = plot.cursor.left >= 0 && index !== null && index !== undefined;
    if (over) {
      value.dataset.latest ??= value.textContent;
      const line = data.lines.find((one) => one.style !== "edge" && one.values[index] != null) ?? data.lines[0];
      value.textContent = figure(line.values[index], data.unit);
      if (data.lines.length > 1) what.textContent = line.label;
      at.textContent = clock(data.times[index], true);
    } else if (value.dataset.latest !== undefined) {
      value.textContent = value.dataset.latest;
      delete value.dataset.latest;
      at.textContent = "";
    }
  };

  const axis = (extra) => ({
    stroke: colour("muted"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
    ...extra,
  });
  const long = (data) => data.times.at(-1) - data.times[0] > 2 * 86400;
  const options = (holder, data) => ({
    width: Math.max(120, holder.clientWidth),
    height: Math.max(80, holder.clientHeight),
    tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, sync: { key: sync.key, scales: ["x", null] }, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (plot, least, most) => [0, Math.max(1.08 * (most ?? 0), data.unit === "share" ? 0.1 : 4)] } },
    axes: [
      axis({ space: 64, size: 24, values: (plot, splits) => splits.map((one, at) => (long(data) ? clock(one, true).slice(5, 10) : clock(one, false)) + (at === Math.min(1, splits.length - 1) ? " UTC" : "")) }),
      axis({ space: 28, size: 44, values: (plot, splits) => splits.map((one) => short(one, data.unit)) }),
    ],
    series: [
      { label: "time", value: (plot, one) => (one === null ? "-" : clock(one, true)) },
      ...data.lines.map((line) => ({
        label: line.label,
        points: { show: false },
        spanGaps: false,
        value: (plot, one) => figure(one, data.unit),
        ...LINES[line.style](),
      })),
    ],
    bands: data.band.length ? [{ series: [data.band[0] + 1, data.band[1] + 1], fill: colour("accent-wash"), dir: 1 },
      { series: [data.band[1] + 1, data.band[0] + 1], fill: colour("accent-wash"), dir: -1 }] : [],
    hooks: { setCursor: [follow(holder, data)] },
  });
  const rows = (data) => [data.times, ...data.lines.map((line) => line.values)];
  const shape = (data) => JSON.stringify([data.unit, data.band, data.lines.map((line) => [line.label, line.style]), long(data)]);

  const draw = (holder, anew) => {
    const text = holder.dataset.chart;
    const before = drawn.get(holder);
    if (before && before.text === text && !anew) return;
    const data = JSON.parse(text);
    if (before && !anew && before.shape === shape(data)) {
      Object.assign(before.data, data);
      before.plot.setData(rows(data));
      before.text = text;
      return;
    }
    before?.plot.destroy();
    const plot = new window.uPlot(options(holder, data), rows(data), holder.querySelector(".plot"));
    drawn.set(holder, { plot, data, text, shape: shape(data) });
    watch.observe(holder);
  };
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target)?.plot;
      const width = Math.max(120, target.clientWidth);
      if (plot && plot.width !== width) plot.setSize({ width, height: Math.max(80, target.clientHeight) });
    }
  });
  const drawAll = (anew) => {
    for (const holder of document.querySelectorAll("[data-chart]")) draw(holder, anew);
  };
  document.addEventListener("htmx:after:swap", () => drawAll(false));
  document.addEventListener("loiter:theme", () => drawAll(true));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  window.matchMedia("print").addEventListener("change", () => drawAll(true));
  drawAll(false);
})();
