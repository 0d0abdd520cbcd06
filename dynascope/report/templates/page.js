"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const COLOURS = ["--blue", "--vermilion", "--green", "--purple", "--amber", "--sky"];
  const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const plots = new Map();

  function readable(value, digits = 5) {
    if (value == null) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(digits))).replace("-", "−");
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const raised = [...String(Number(power))].map((c) => RAISED[c]).join("");
    return `${Number(mantissa)} × 10${raised}`.replace("-", "−");
  }

  /* What is seen decides the frame; a naive line may widen it, but not push the measured one into a corner. */
  function frame(u, spec) {
    const [from, to] = [u.scales.x.min ?? -Infinity, u.scales.x.max ?? Infinity];
    const seen = (wanted) => {
      let [low, high] = [Infinity, -Infinity];
      spec.lines.forEach((line, i) => {
        if (!u.series[i + 1].show || !wanted(line)) return;
        line.y.forEach((y, k) => {
          if (y == null || spec.x[k] < from || spec.x[k] > to || (spec.log && y <= 0)) return;
          low = Math.min(low, y); high = Math.max(high, y);
        });
      });
      return [low, high];
    };
    let [low, high] = seen((line) => line.col !== "naive");
    const naive = seen((line) => line.col === "naive");
    if (low > high) [low, high] = naive;
    if (low > high) return spec.log ? [1e-16, 1] : [0, 1];
    if (spec.log) return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
    const span = high - low || Math.abs(high) || 1;
    low = Math.max(Math.min(low, naive[0]), low - 0.7 * span);
    high = Math.min(Math.max(high, naive[1]), high + 0.7 * span);
    const room = 0.06 * (high - low || span);
    return [spec.zero && low >= 0 ? 0 : low - room, high + room];
  }

  function decades(u, index, low, high) {
    const [first, last] = [Math.round(Math.log10(low)), Math.round(Math.log10(high))], every = Math.ceil((last - first) / 6) || 1;
    return Array.from({ length: Math.floor((last - first) / every) + 1 }, (_, i) => 10 ** (first + i * every));
  }

  function stroke(line) {
    if (line.col === "law") return css("--ink");
    if (line.col === "naive") return css("--muted");
    return css(COLOURS[line.colour % COLOURS.length]);
  }

  function series(line, spec) {
    const thick = line.row === "median" || line.row === "single" ? 3 : 2;
    const band = line.row === "low" || line.row === "high";
    return {
      label: line.label, spanGaps: false, points: { show: line.y.length < 2 },
      stroke: band ? "transparent" : () => stroke(line),
      width: band ? 0 : line.col === "value" ? (spec.lines.length > 1 ? thick : 1.6) : 1.3,
      dash: line.col === "law" ? [7, 5] : line.col === "naive" ? [1.5, 4.5] : undefined,
      cap: line.col === "naive" ? "round" : "butt",
    };
  }

  function axis(label, extra) {
    return {
      label, labelSize: 22, labelGap: 2, labelFont: `12px ${css("--sans")}`, font: `12px ${css("--sans")}`, stroke: () => css("--muted"),
      grid: { stroke: () => css("--rule"), width: 1 }, ticks: { show: false }, ...extra,
    };
  }

  /* On a logarithmic axis only whole decades are marked: 10 to a power says it shortest. */
  function power(value) {
    const exponent = Math.round(Math.log10(value));
    return `10${[...String(exponent)].map((c) => RAISED[c]).join("")}`;
  }

  function build(box) {
    const key = box.dataset.chart;
    if (plots.has(key)) return;
    const spec = data.charts[key];
    const low = spec.lines.findIndex((line) => line.row === "low"), high = spec.lines.findIndex((line) => line.row === "high");
    const width = () => Math.max(200, box.clientWidth), height = () => (width() < 420 ? 220 : 260);
    const ticks = (u, values) => values.map((v) => (v == null ? "" : readable(v, 4)));
    const u = new uPlot({
      width: width(), height: height(), legend: { show: false }, padding: [10, 12, 0, 0],
      scales: { x: { time: false }, y: { distr: spec.log ? 3 : 1, range: (self) => frame(self, spec) } },
      axes: [
        axis(spec.xlabel, { size: 26, values: ticks }),
        axis(spec.ylabel, {
          values: spec.log ? (u, values) => values.map(power) : ticks,
          size: (self, values) => Math.max(34, 12 + 6.6 * Math.max(0, ...(values || []).map((v) => String(v).length))),
          ...(spec.log ? { splits: decades } : {}),
        }),
      ],
      series: [{}, ...spec.lines.map((line) => series(line, spec))],
      bands: low < 0 ? [] : [{ series: [high + 1, low + 1], fill: () => css(COLOURS[0]) + "26" }],
      cursor: { y: false, drag: { x: true, y: false, setScale: true }, sync: { key: "run", setSeries: false, scales: ["x", null] },
        points: { size: 7, show: (self, i) => (/low|high/.test(spec.lines[i - 1].row) ? false : undefined) } },
      hooks: { setCursor: [(self) => readout(box, spec, self.cursor.idx)] },
    }, [spec.x, ...spec.lines.map((line) => line.y)], box);
    plots.set(key, { u, spec, box, resize: () => u.setSize({ width: width(), height: height() }) });
    u.root.setAttribute("aria-hidden", "true");
    toggles(box, u, spec);
    box.addEventListener("keydown", (event) => steer(event, u, spec, box));
  }

  /* The table under a chart shows the numbers at the cursor, and the final ones without it. */
  function readout(box, spec, index) {
    const panel = box.closest("figure"), last = spec.x.length - 1, at = index == null ? last : index;
    panel.querySelectorAll("[data-line]").forEach((cell) => { cell.textContent = readable(spec.lines[cell.dataset.line].y[at]); });
    const where = panel.querySelector("[data-at]");
    if (where) where.textContent = `at step ${spec.x[at]}${index == null ? " (last)" : ""}`;
  }

  function toggles(box, u, spec) {
    const panel = box.closest("figure"), off = new Set();
    panel.querySelectorAll(".toggle").forEach((button) => button.addEventListener("click", () => {
      const name = button.dataset.toggle;
      off.has(name) ? off.delete(name) : off.add(name);
      button.setAttribute("aria-pressed", String(!off.has(name)));
      spec.lines.forEach((line, i) => {
        const row = line.row === "low" || line.row === "high" ? "band" : line.row;
        u.setSeries(i + 1, { show: !off.has(`row ${row}`) && !off.has(`col ${line.col}`) }, false);
      });
      u.redraw(true, true);
      u.setScale("x", { min: u.scales.x.min, max: u.scales.x.max });
    }));
  }

  function steer(event, u, spec, box) {
    const last = spec.x.length - 1, now = u.cursor.idx ?? last, far = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: now - far, ArrowRight: now + far, Home: 0, End: last }[event.key];
    if (event.key === "Escape") { u.setScale("x", { min: spec.x[0], max: spec.x[last] }); u.setCursor({ left: -10, top: -10 }); return; }
    if (to === undefined) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(last, to));
    u.setCursor({ left: u.valToPos(spec.x[at], "x"), top: 40 });
    const said = spec.lines.filter((line) => line.label && line.col === "value").map((line) => `${line.label} ${readable(line.y[at], 4)}`);
    document.getElementById("announce").textContent = `step ${spec.x[at]}: ${said.join(", ")}`;
  }

  const boxes = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (entry.isIntersecting) { near.unobserve(entry.target); build(entry.target); }
  }), { rootMargin: "600px" });
  boxes.forEach((box) => near.observe(box));
  new ResizeObserver(() => plots.forEach((plot) => plot.resize())).observe(document.getElementById("main"));

  /* Theme: the system's choice until somebody presses the button. */
  const button = document.getElementById("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => plots.forEach((plot) => plot.u.redraw(false, true));
  const stored = () => { try { return localStorage.getItem("dynascope-theme"); } catch { return null; } };
  function theme(name) {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    const isDark = name ? name === "dark" : dark.matches;
    button.textContent = isDark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark ? "light" : "dark"} colours`);
    redraw();
  }
  button.addEventListener("click", () => {
    const next = (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
    try { localStorage.setItem("dynascope-theme", next); } catch { /* file:// may have no storage */ }
    theme(next);
  });
  dark.addEventListener("change", () => theme(root.dataset.theme));
  theme(["light", "dark"].includes(stored()) ? stored() : null);

  let before;
  addEventListener("beforeprint", () => { before = root.dataset.theme; document.querySelectorAll("details").forEach((d) => { d.open = true; }); boxes.forEach(build); theme("light"); });
  addEventListener("afterprint", () => theme(before));

  document.getElementById("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
    link.download = `${data.run.name.replace(/[^\w.-]+/g, "-") || "run"}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
