
// --- charts: a quarter of an hour, drawn as paths ---

const STEPS = 180;
const WIDTH = 360;
const HEIGHT = 84;

/** The last quarter of an hour, whatever of it there is: one value for each step, oldest first, the newest at the right. */
class Track {
  constructor() {
    this.lines = { calls: [], failures: [], p50: [], p95: [], p99: [] };
  }

  /** Adds the points of `steps` new steps. Those that are missing at the beginning are zero. */
  add(points, steps) {
    for (const [name, line] of Object.entries(this.lines)) {
      const fresh = points[name] || [];
      for (let n = fresh.length; n < steps; n++) line.push(0);
      line.push(...fresh);
      line.splice(0, Math.max(0, line.length - STEPS));
    }
  }
}

/** A value that is a little above `most` and easy to read. */
function ceiling(most) {
  if (most <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((n) => n * size).find((n) => n >= most * 1.02) || 10 * size;
}

function pathOf(values, most) {
  let path = "";
  const left = STEPS - values.length;
  values.forEach((value, n) => {
    const x = (((left + n) * WIDTH) / (STEPS - 1)).toFixed(1);
    path += (n ? "L" : "M") + x + " " + (HEIGHT - (value / most) * HEIGHT).toFixed(1);
  });
  return path;
}

/**
 * A chart with its figure above. `lines`: what is drawn, strongest first, from `values(track)`; `show` writes a value for people;
 * `least` and `limit`: how high it is at the least and at most.
 */
function chart(title, { lines, show, least = 0, limit = Infinity, bad = false, names }) {
  const figure = h("span");
  const note = h("small");
  const paths = lines.map((_, n) => s("path", { class: "line " + "abc"[n] }));
  const area = s("path", { class: "area" });
  const here = s("line", { class: "here", y1: 0, y2: HEIGHT, visibility: "hidden" });
  const rules = [0, HEIGHT / 2, HEIGHT].map((y) => s("line", { class: "rule", x1: 0, x2: WIDTH, y1: y, y2: y }));
  const canvas = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, rules, area, [...paths].reverse(), here);
  const top = h("span", { class: "top", "aria-hidden": "true" });
  const tip = h("div", { class: "tip", hidden: true });
  const box = h("div", { class: bad ? "chart bad" : "chart" }, top, canvas, tip);
  const ends = h("div", { class: "ends", "aria-hidden": "true" }, h("span", { text: "15 min ago" }), h("span", { text: "now" }));
  const node = h("section", { class: "panel tile", "aria-label": title },
    h("h2", { text: title }), h("p", { class: "figure" }, figure, note), box, ends);
  let drawn = [];
  let stepMs = 5000;

  canvas.addEventListener("pointermove", (event) => {
    const place = canvas.getBoundingClientRect();
    const at = Math.round(((event.clientX - place.left) / place.width) * (STEPS - 1));
    const n = at - (STEPS - (drawn[0] || []).length);
    const known = n >= 0 && drawn[0] && n < drawn[0].length;
    tip.hidden = !known;
    mark(here, "visibility", known ? "visible" : "hidden");
    if (!known) return;
    const x = (at * WIDTH) / (STEPS - 1);
    mark(here, "x1", x);
    mark(here, "x2", x);
    tip.style.left = Math.min(92, Math.max(8, (at * 100) / (STEPS - 1))) + "%";
    const words = drawn.map((line, i) => (names ? names[i] + " " : "") + show(line[n])).join("  ");
    tip.replaceChildren(h("span", { text: clock(now() - (STEPS - 1 - at) * stepMs) }), words);
  });
  canvas.addEventListener("pointerleave", () => {
    tip.hidden = true;
    mark(here, "visibility", "hidden");
  });

  return {
    node,
    /** The figure, a word to it, and how bad it is. */
    say(value, words, level) {
      put(figure, value);
      put(note, words);
      mark(figure, "class", level);
    },
    draw(track, step) {
      stepMs = step;
      drawn = lines.map((line) => line(track, step));
      const peak = Math.max(...drawn.flat(), 0);
      const most = Math.min(ceiling(Math.max(peak, least)), limit);
      drawn.forEach((values, n) => mark(paths[n], "d", pathOf(values, most)));
      const first = drawn[0];
      const begin = (((STEPS - first.length) * WIDTH) / (STEPS - 1)).toFixed(1);
      mark(area, "d", first.length > 1 ? `${pathOf(first, most)}L${WIDTH} ${HEIGHT}L${begin} ${HEIGHT}Z` : "");
      put(top, show(most));
      mark(canvas, "aria-label", `${title} over the last 15 minutes: now ${figure.textContent}, at most ${show(peak)}`);
    },
  };
}

/** The three charts every view begins with. */
function charts() {
  const perSecond = (track, step) => track.lines.calls.map((calls) => (calls * 1000) / step);
  const failed = (track) => track.lines.failures.map((failures, n) => (failures * 100) / (track.lines.calls[n] || 1));
  const calls = chart("Calls per second", { lines: [perSecond], show: rate });
  const errors = chart("Failed calls", { lines: [failed], show: (percent) => share(percent, 100), least: 4.9, limit: 100, bad: true });
  const latency = chart("Latency", {
    lines: ["p50", "p95", "p99"].map((name) => (track) => track.lines[name]), show: millis, least: 1, names: ["p50", "p95", "p99"],
  });
  const node = h("div", { class: "tiles" }, calls.node, errors.node, latency.node);
  let drawn = "";
  return {
    node,
    update(recent, requests, failures, track, step, stamp) {
      const { p50, p95, p99 } = recent.latencyMs;
      const percent = recent.calls ? (recent.failures * 100) / recent.calls : 0;
      calls.say(rate(recent.calls / recent.seconds), `${whole(requests)} since the start`);
      errors.say(share(recent.failures, recent.calls), `${whole(failures)} since the start`, percent >= 1 ? "bad" : "");
      latency.say(millis(p50, recent.calls), recent.calls ? `p50 · ${millis(p95)} p95 · ${millis(p99)} p99` : "p50, p95 and p99");
      // Paths change with each step, not with each look.
      if (drawn === stamp) return;
      drawn = stamp;
      for (const one of [calls, errors, latency]) one.draw(track, step);
    },
  };
}

/** A line no higher than a word, with the steps in which calls failed marked below. */
function spark() {
  const path = s("path");
  const marks = s("g");
  const node = s("svg", { class: "spark", viewBox: "0 0 90 24", preserveAspectRatio: "none", "aria-hidden": "true" }, path, marks);
  let drawn = "";
  return {
    node,
    update(track, stamp) {
      if (drawn === stamp) return;
      drawn = stamp;
      // Two steps make one, which is as fine as it can be drawn.
      const calls = [], failures = [];
      const line = track.lines.calls;
      for (let n = line.length % 2; n < line.length; n += 2) {
        calls.push(line[n] + line[n + 1]);
        failures.push(track.lines.failures[n] + track.lines.failures[n + 1]);
      }
      const most = Math.max(...calls, 1);
      const left = STEPS / 2 - calls.length;
      mark(path, "d", calls.map((value, n) => `${n ? "L" : "M"}${left + n} ${(19 - (value / most) * 17).toFixed(1)}`).join(""));
      marks.replaceChildren(...failures.flatMap((value, n) => (value ? [s("rect", { x: left + n - 0.5, y: 21.5, width: 1, height: 2.5 })] : [])));
    },
  };
}
