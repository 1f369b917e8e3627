
// --- slow and failed calls, and what became of each of their attempts ---

const KEPT = 100;
/** Whoever keeps all calls has new ones with each look; so often is soon enough for them. */
const REST = 6000;
const SHOWN = matchMedia("(max-width: 720px)").matches ? 6 : 12;

/** A panel of calls, of one service or of all. */
function callsPanel(service) {
  let kind = "slow";
  let list = [];
  let most = SHOWN;
  let stamp = "";
  let asked = 0;
  const items = h("ul", { class: "calls" });
  const none = h("div");
  const more = h("button", { type: "button", class: "more", text: "Show more", click: () => ((most += 4 * SHOWN), show()) });
  const foot = h("div", { class: "foot" }, more);
  const tabs = choice("Which calls", [["slow", "Slowest"], ["failed", "Failed"], ["latest", "Latest"]], kind, (value) => {
    kind = value;
    most = SHOWN;
    stamp = "";
    refresh();
  });
  const part = panel("Slow and failed calls", h("span", { class: "grow" }), tabs);
  part.body.append(items, none, foot);

  function show() {
    const sorted = kind === "slow" ? [...list].sort((a, b) => b.durationMs - a.durationMs) : list;
    keyed(items, sorted.slice(0, most), keyOf, callRow);
    foot.hidden = sorted.length <= most;
    none.hidden = sorted.length > 0;
  }

  function say(strong, ...rest) {
    list = [];
    show();
    none.replaceChildren(empty(strong, ...rest));
  }

  async function refresh() {
    const { traces, requests } = mesh.overview;
    // Nothing new has been called: nothing new to see.
    const next = [kind, service, traces, mesh.overview.startedAt].join("/");
    if (stamp === next || (stamp && Date.now() - asked < REST)) return;
    stamp = next;
    asked = Date.now();
    const query = new URLSearchParams({ limit: KEPT });
    if (service) query.set("service", service);
    if (kind === "failed") query.set("failed", "true");
    try {
      list = (await ask("GET", "/traces?" + query)).traces;
    } catch (error) {
      stamp = "";
      return say("These calls cannot be shown", error.message);
    }
    if (list.length) show();
    else if (kind === "failed") say("No failed calls", "None of the calls that were kept has failed.");
    else if (requests) say("No slow and no failed calls", "Others are kept as well where ", h("code", { text: "telemetry.tracing" }), " is on.");
    else say("No calls yet", "Those that are slow or fail appear here.");
  }

  return { node: part.node, refresh };
}

const keyOf = (call) => call.requestId + call.startedAt;
const failed = (call) => Boolean(call.reason) || call.status >= 500;

function callRow(call) {
  const bad = failed(call);
  const attempts = call.attempts.length;
  const what = bad ? (call.reason || "failed").replaceAll("_", " ") : String(call.status);
  const again = attempts > 1 ? `${attempts} attempts` : attempts === 1 ? call.attempts[0].instance : "not sent";
  const body = h("div", { class: "fall" });
  const time = timeOf(call.startedAt);
  const node = h("li", {},
    h("details", { toggle: (event) => event.target.open && !body.firstChild && body.append(...waterfall(call)) },
      h("summary", {},
        h("span", { class: "what" },
          h("span", { class: "line" }, h("b", { text: call.service }), ` ${call.method} `, h("span", { class: "mono", text: call.path, title: call.path })),
          h("span", { class: "small line", text: `${again} · ${call.status || "no status"}` })),
        h("span", { class: "pill", "data-level": bad ? "down" : attempts > 1 ? "degraded" : "" , text: bad ? what : attempts > 1 ? "retried" : what }),
        h("span", { class: "took" }, millis(call.durationMs), time)),
      body));
  return { node, update: () => time.age() };
}

/** A call from its beginning to its end, attempt below attempt. */
function waterfall(call) {
  const all = Math.max(call.durationMs, 0.01);
  const bar = (kind, from, ms, title) => {
    const node = h("i", { class: kind, title });
    node.style.left = Math.min(99.5, (from * 100) / all) + "%";
    node.style.width = Math.min(100 - Math.min(99.5, (from * 100) / all), (ms * 100) / all) + "%";
    return node;
  };
  const row = (label, under, bars, ms) =>
    h("div", { class: "row" },
      h("div", { class: "label" }, h("span", { text: label, title: label }), under && h("span", { class: "small", text: under, title: under })),
      h("div", { class: "lane" }, bars), h("span", { class: "n", text: millis(ms) }));
  const rows = call.attempts.map((one) => {
    const bad = Boolean(one.failure) || one.status >= 500;
    const first = one.firstByteMs === undefined ? one.durationMs : one.firstByteMs;
    const bars = [
      one.waitMs > 0 && bar("wait", Math.max(0, one.offsetMs - one.waitMs), one.waitMs, `waited ${millis(one.waitMs)} before it`),
      bar(bad ? "failed" : "", one.offsetMs, first, one.firstByteMs === undefined ? "no answer came" : `first byte after ${millis(first)}`),
      one.durationMs > first && bar((bad ? "failed" : "") + " body", one.offsetMs + first, one.durationMs - first, "the rest of the answer"),
    ];
    const under = [
      one.status || "no answer", one.failure && one.failure !== "upstream_status" && one.failure.replaceAll("_", " "),
      one.connectMs !== undefined && !one.reused ? `connected in ${millis(one.connectMs)}` : one.reused && "connection reused",
    ];
    return row(`${one.attempt} · ${one.instance}`, under.filter(Boolean).join(" · "), bars, one.durationMs);
  });
  if (call.queueMs >= 0.5) rows.unshift(row("in the queue", "", [bar("wait", 0, call.queueMs)], call.queueMs));
  if (!rows.length) rows.push(row("no attempt", (call.reason || "").replaceAll("_", " "), [], call.durationMs));
  const ids = [`request ${call.requestId}`, call.traceId && `trace ${call.traceId}`, stamp(call.startedAt)];
  return [...rows, h("p", { class: "ids mono", text: ids.filter(Boolean).join("  ") })];
}
