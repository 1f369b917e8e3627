
// --- one service ---

const PAGE = 50;

function serviceView(name) {
  mesh.open = { name, sort: "level", limit: PAGE, step: 0, track: new Track(), detail: null, goneAt: null };
  const { open } = mesh;
  const shape = sign("fine");
  const sub = h("p", { class: "sub" });
  const list = h("ul", { class: "troubles" });
  const breaker = menuButton("Circuit breaker", () => breakerMenu(name, open.detail.breakerControl), "Circuit breaker ▾");
  breaker.className = "button";
  const title = h("h1", { text: name });
  const head = h("section", { class: "verdict", "aria-label": "How it is" }, shape,
    h("div", { class: "text" }, h("a", { class: "back", href: "#/", text: "← All services" }), title, sub, list), breaker);
  const three = charts();
  const facts = h("dl", { class: "panel facts" });
  const fact = (words) => {
    const value = h("dd");
    facts.append(h("div", {}, h("dt", { text: words }), value));
    return value;
  };
  const [state, inFlight, queued, budget, retries, refused, strategy, next] =
    ["Circuit breaker", "In flight", "Waiting", "Retry budget", "Retries lately", "Refused", "Balancing", "Next pick"].map(fact);
  const instances = panel("Instances");
  const rows = h("tbody");
  const heading = (words, sort, attributes) => {
    if (!sort) return h("th", { scope: "col", ...attributes }, words || h("span", { class: "unseen", text: "Actions" }));
    const button = h("button", { type: "button", class: "sort", text: words, click: () => reorder(sort) });
    const node = h("th", { scope: "col", ...attributes }, button);
    sorts.push([sort, node, button]);
    return node;
  };
  const sorts = [];
  const order = () => sorts.forEach(([sort, node, button]) => {
    mark(button, "aria-pressed", String(sort === open.sort));
    mark(node, "aria-sort", sort === open.sort ? (sort === "id" ? "ascending" : "descending") : "none");
  });
  const reorder = (sort) => {
    open.sort = sort;
    order();
    soon();
  };
  const n = { class: "n" };
  const table = h("table", {}, h("thead", {}, h("tr", {},
    heading("Instance", "id"), heading("State", "level"), heading("Share", null, { class: "n" }), heading("Calls/s", "calls", n),
    heading("Failed", "failures", n), heading("p50", null, n), heading("p95", "latency", n), heading("p99", null, n),
    heading("In flight", null, n), heading("Weight", null, n), heading("", null, {}))), rows);
  order();
  const more = h("button", { type: "button", class: "more", text: "Show more", click: () => ((open.limit += 2 * PAGE), soon()) });
  const foot = h("div", { class: "foot" }, more);
  instances.body.append(h("div", { class: "scroll" }, table), foot);
  const calls = callsPanel(name);
  const events = eventsPanel(name);
  const gone = h("section", { class: "panel", hidden: true }, empty("It is not registered", "Its last instance has gone, or it was never there. ", h("a", { class: "back", href: "#/", text: "All services" })));
  const body = h("div", { class: "view" }, three.node, facts, instances.node, h("div", { class: "pair" }, calls.node, events.node));
  const node = h("div", { class: "view" }, head, gone, body);

  return {
    node,
    title: () => name + " – weft",
    update() {
      const { detail } = open;
      gone.hidden = open.goneAt === null;
      body.hidden = breaker.hidden = !detail;
      if (!detail) {
        shape.set("paused");
        list.replaceChildren();
        return put(sub, "");
      }
      const { recent, heads } = detail;
      shape.set(detail.level, WORDS[detail.level]);
      mark(head, "data-level", detail.level);
      const since = detail.since ? ` for ${span(now() - detail.since)}` : "";
      put(sub, `${{ fine: "Fine", degraded: "Needs a look", down: "Down", paused: "Paused" }[detail.level]}${since}. ${heads.available} of ${plural(heads.total, "instance")} available.`);
      keyed(list, detail.troubles, (trouble) => trouble.what, (trouble) => {
        const shape = sign(trouble.level, WORDS[trouble.level]);
        return { node: h("li", {}, shape, h("span", { class: "what", text: trouble.what })), update: () => {} };
      });
      three.update(recent, detail.requests, detail.failures, open.track, mesh.overview.stepMs, mesh.overview.startedAt + "/" + open.step);
      const words = breakerPill(detail.circuitBreaker, detail.breakerControl);
      put(state, words[1]);
      mark(state, "class", { down: "bad", degraded: "warn" }[words[0]]);
      figure(inFlight, whole(detail.inFlight), " of " + whole(detail.maxInFlight));
      figure(queued, whole(detail.queued), " of " + whole(detail.maxQueue));
      put(budget, detail.retryBudgetLeft < 1 ? "empty" : `${whole(detail.retryBudgetLeft)} left`);
      mark(budget, "class", detail.retryBudgetLeft < 1 ? "warn" : "");
      put(retries, whole(recent.retries));
      const no = detail.refused;
      const kinds = { "circuit open": no.circuitOpen, "no instance": no.noHealthyInstance, ...no.byLimit };
      figure(refused, whole(Object.values(kinds).reduce((sum, n) => sum + n, 0)), kindsOf(kinds));
      put(strategy, detail.strategy.replaceAll("_", " ") + (detail.panic ? ", health ignored" : ""));
      mark(strategy, "class", detail.panic ? "warn" : "");
      put(next, detail.nextPick || "nobody");
      put(instances.count, whole(heads.total));
      const most = Math.max(...detail.instances.map((one) => one.sharePercent));
      keyed(rows, detail.instances.map((one) => [one, most]), ([one]) => one.id, ([one]) => instanceRow(name, one));
      foot.hidden = heads.total <= detail.instances.length;
      put(more, `Show more: ${whole(heads.total - detail.instances.length)} are not shown`);
      events.update();
      calls.refresh();
    },
  };
}

/** A figure, and in small letters what it is about. */
function figure(node, words, about) {
  if (node.textContent !== words + about) node.replaceChildren(words, h("small", { text: about }));
}

const STATES = { drain: "draining", maint: "maintenance" };

function stateOf(one) {
  if (one.state !== "ready") return STATES[one.state];
  if (one.weight === 0) return "weight 0";
  if (!one.healthy) return "unhealthy";
  if (one.ejected) return "ejected";
  return one.level === "down" ? "unavailable" : "healthy";
}

function instanceRow(service, first) {
  let known = first;
  const state = pill();
  const why = h("span", { class: "small" });
  const part = h("span");
  const gauge = h("i", { "aria-hidden": "true" });
  const labels = h("span", { class: "tags" });
  const where = h("span", { class: "small mono" });
  const slow = h("span", { class: "pill", "data-level": "degraded", text: "slow", title: "much slower than the others" });
  const [calls, failures, p50, p95, p99, inFlight, weight] = ["calls/s", "failed", "p50", "p95", "p99", "in flight", "weight"].map((label) => cell(label));
  const speed = h("span");
  p95.append(slow, " ", speed);
  const menu = menuButton(`Actions for ${first.id}`, () => instanceMenu(service, known),
    s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, [3, 8, 13].map((x) => s("circle", { cx: x, cy: 8, r: 0.6 }))));
  menu.className = "plain icon";
  const node = h("tr", { class: "row" },
    h("td", {}, h("div", { class: "name" }, h("div", { class: "text" }, h("div", { class: "titled" }, h("b", { text: first.id }), labels), where))),
    h("td", {}, state, why), h("td", { class: "n", "data-is": "share" }, h("span", { class: "gauge" }, gauge, part)),
    calls, failures, p50, p95, p99, inFlight, weight, h("td", { class: "n act" }, menu));
  let tags = "";
  return {
    node,
    update([one, most]) {
      known = one;
      const { recent } = one;
      state.set(one.level, stateOf(one));
      put(why, one.why.replace(/^state is \w+ ?/, "").replace(/^available(, )?/, "").replace(/^unhealthy: /, ""));
      why.hidden = !why.textContent;
      put(where, `${one.host}:${one.port}`);
      const next = JSON.stringify([one.zone, one.metadata]);
      if (tags !== next) {
        tags = next;
        const all = Object.entries(one.metadata).map(([key, value]) => [`${key}: ${value}`, value]);
        if (one.zone) all.unshift([`zone: ${one.zone}`, one.zone]);
        labels.replaceChildren(...all.slice(0, 4).map(([title, text]) => h("span", { class: "tag", title, text })));
      }
      put(part, recent.calls ? one.sharePercent.toFixed(one.sharePercent < 10 ? 1 : 0) + " %" : "–");
      gauge.style.setProperty("--part", String((one.sharePercent * 100) / (most || 1)));
      put(calls, rate(recent.calls / recent.seconds));
      put(failures, share(recent.failures, recent.calls));
      mark(failures, "class", "n" + (recent.calls && recent.failures / recent.calls >= 0.01 ? " bad" : recent.failures ? "" : " zero"));
      put(p50, millis(recent.latencyMs.p50, recent.calls));
      put(speed, millis(recent.latencyMs.p95, recent.calls));
      put(p99, millis(recent.latencyMs.p99, recent.calls));
      put(inFlight, one.maxInFlight ? `${one.inFlight} / ${one.maxInFlight}` : one.inFlight);
      put(weight, one.weight);
      slow.hidden = !one.slow;
      mark(p95, "class", "n" + (one.slow ? " warn" : ""));
    },
  };
}
