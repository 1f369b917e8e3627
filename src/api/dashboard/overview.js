
// --- everything at a glance ---

const WHAT = { fine: "is fine", degraded: "needs a look", down: "is down", paused: "is paused" };

function overviewView() {
  const head = verdict();
  const three = charts();
  const find = h("input", {
    class: "find", type: "search", placeholder: "Find a service", "aria-label": "Find a service", value: mesh.find,
    input: (event) => {
      mesh.find = event.target.value.trim();
      soon();
    },
  });
  const services = panel("Services", h("span", { class: "grow" }), find);
  const rows = h("tbody");
  const table = h("table", {},
    h("thead", {}, h("tr", {},
      h("th", { scope: "col", text: "Service" }), h("th", { scope: "col", class: "n wide", text: "Last 15 min" }), h("th", { scope: "col", class: "n", text: "Calls/s" }),
      h("th", { scope: "col", class: "n", text: "Failed" }), h("th", { scope: "col", class: "n", text: "p50" }), h("th", { scope: "col", class: "n", text: "p95" }),
      h("th", { scope: "col", class: "n", text: "p99" }), h("th", { scope: "col", class: "n", text: "Available" }), h("th", { scope: "col", text: "Circuit breaker" }))),
    rows);
  const none = h("div");
  const more = h("p", { class: "foot" });
  services.body.append(h("div", { class: "scroll" }, table), none, more);
  const calls = callsPanel(null);
  const events = eventsPanel(null);
  const limits = limitsPanel();
  const node = h("div", { class: "view" }, head.node, three.node, services.node, h("div", { class: "pair" }, calls.node, events.node), limits.node);

  return {
    node,
    title: () => "weft",
    update() {
      const { overview } = mesh;
      head.update(overview);
      three.update(overview.recent, overview.requests, overview.failures, mesh.whole, overview.stepMs, mesh.stamp);
      put(services.count, overview.servicesTotal ? whole(overview.servicesTotal) : "");
      keyed(rows, overview.services, (service) => service.name, serviceRow);
      table.hidden = !overview.services.length;
      none.hidden = !table.hidden;
      if (!table.hidden) none.replaceChildren();
      else if (!none.firstChild || none.found !== mesh.find) {
        none.found = mesh.find;
        none.replaceChildren(mesh.find
          ? empty("No service has that in its name", h("span", { text: mesh.find }))
          : empty("Nobody is registered yet", "Services register by ", h("code", { text: "POST /register" }), " and appear here at once."));
      }
      const hidden = overview.matching - overview.services.length;
      more.hidden = hidden <= 0;
      put(more, `${plural(hidden, "service")} more, all of them no worse off than these. Find them by name.`);
      events.update();
      limits.update(overview);
      calls.refresh();
    },
  };
}

/** One sentence, and what it is made of. */
function verdict() {
  const shape = sign("fine");
  const title = h("h1");
  const sub = h("p", { class: "sub" });
  const list = h("ul", { class: "troubles" });
  const node = h("section", { class: "verdict", "aria-label": "How everything is" }, shape, h("div", { class: "text" }, title, sub, list));
  return {
    node,
    update(overview) {
      const bad = overview.services.filter((service) => service.troubles.length);
      const down = bad.filter((service) => service.level === "down");
      shape.set(overview.level);
      mark(node, "data-level", overview.level);
      put(title, sentence(overview, bad, down));
      const { total, available } = overview.heads;
      const doing = `${rate(overview.recent.calls / overview.recent.seconds)} calls per second, ${whole(overview.inFlight)} in flight`;
      put(sub, total ? `${plural(overview.servicesTotal, "service")}, ${whole(available)} of ${plural(total, "instance")} available. ${doing}.` : "The mesh itself is up and ready.");
      keyed(list, bad.slice(0, 6), (service) => service.name, troubleRow);
    },
  };
}

function sentence(overview, bad, down) {
  if (!overview.servicesTotal) return "Everything is quiet";
  if (!bad.length) return overview.servicesTotal === 1 ? `${overview.services[0] ? overview.services[0].name : "The service"} is fine` : "All services are fine";
  if (bad.length === 1) return `${bad[0].name} ${WHAT[bad[0].level]}`;
  if (down.length) return `${down.length === 1 ? down[0].name + " is" : plural(down.length, "service") + " are"} down` + (bad.length > down.length ? `, ${whole(bad.length - down.length)} more need${bad.length - down.length === 1 ? "s" : ""} a look` : "");
  return `${plural(bad.length, "service")} need a look`;
}

function troubleRow(service) {
  const shape = sign(service.level);
  const link = h("a", { href: "#/services/" + encodeURIComponent(service.name), text: service.name });
  const what = h("span", { class: "what" });
  let since = timeOf(service.since || now(), "since ");
  let at = service.since;
  const node = h("li", {}, shape, link, what, since);
  return {
    node,
    update(next) {
      shape.set(next.level, WORDS[next.level]);
      put(what, next.troubles.map((trouble) => trouble.what).join("; "));
      if (next.since !== at) {
        at = next.since;
        const fresh = timeOf(at || now());
        since.replaceWith(fresh);
        since = fresh;
      }
      put(since, `for ${span(now() - (at || now()))}`);
    },
  };
}

function breakerPill(breaker, control) {
  const open = breaker.status === "OPEN";
  const level = open ? "down" : breaker.status === "HALF_OPEN" ? "degraded" : control === "disabled" ? "paused" : "fine";
  const words = { auto: breaker.status.replace("_", " ").toLowerCase(), forced_open: "forced open", disabled: "disabled" }[control];
  return [level, words];
}

function pill() {
  const shape = sign("fine");
  const text = h("span");
  const node = h("span", { class: "pill" }, shape, text);
  node.set = (level, words) => {
    shape.set(level);
    mark(node, "data-level", level);
    put(text, words);
  };
  return node;
}

/** How many instances are what, as a number and as a bar. */
function headsOf() {
  const text = h("span");
  const parts = ["available", "paused", "ejected", "unhealthy"].map((kind) => [kind, h("i", { class: kind })]);
  const node = h("span", { class: "heads" }, text, h("span", { class: "parts", "aria-hidden": "true" }, parts.map(([, part]) => part)));
  node.set = (heads) => {
    put(text, `${heads.available} / ${heads.total}`);
    const told = parts.filter(([kind]) => heads[kind]).map(([kind]) => `${heads[kind]} ${kind}`);
    mark(node, "title", told.join(", "));
    for (const [kind, part] of parts) {
      part.hidden = !heads[kind];
      part.style.flex = String(heads[kind]);
    }
  };
  return node;
}

function cell(label, attributes) {
  return h("td", { class: "n", "data-is": label, ...attributes });
}

function serviceRow(service) {
  const to = "#/services/" + encodeURIComponent(service.name);
  const shape = sign(service.level);
  const what = h("span", { class: "small" });
  const trend = spark();
  const [calls, failures, p50, p95, p99] = ["calls/s", "failed", "p50", "p95", "p99"].map((label) => cell(label));
  const heads = headsOf();
  const breaker = pill();
  const circuit = h("td", { "data-is": "circuit breaker" }, breaker);
  const node = h("tr", { class: "goes", click: (event) => event.target.closest("a") || getSelection().toString() || (location.hash = to) },
    h("td", {}, h("div", { class: "name" }, shape, h("div", { class: "text" }, h("a", { href: to, text: service.name }), what))),
    h("td", { class: "n wide trend" }, trend.node), calls, failures, p50, p95, p99, h("td", { class: "n", "data-is": "available" }, heads), circuit);
  return {
    node,
    update(next) {
      const { recent } = next;
      shape.set(next.level, WORDS[next.level]);
      put(what, next.troubles.map((trouble) => trouble.what).join("; "));
      what.hidden = !next.troubles.length;
      put(calls, rate(recent.calls / recent.seconds));
      put(failures, share(recent.failures, recent.calls));
      mark(failures, "class", "n" + (recent.calls && recent.failures / recent.calls >= 0.01 ? " bad" : recent.failures ? "" : " zero"));
      put(p50, millis(recent.latencyMs.p50, recent.calls));
      put(p95, millis(recent.latencyMs.p95, recent.calls));
      put(p99, millis(recent.latencyMs.p99, recent.calls));
      heads.set(next.heads);
      const [level, words] = breakerPill(next.circuitBreaker, next.breakerControl);
      breaker.set(level, words);
      mark(circuit, "data-level", level);
      trend.update(mesh.tracks.get(next.name) || new Track(), mesh.stamp);
    },
  };
}

// --- what happened ---

const LEVELS = {
  healthy: "fine", returned: "fine", registered: "news", restored: "fine", deregistered: "paused", expired: "down", unhealthy: "down", ejected: "degraded",
  panic: "degraded", warning: "degraded", state: "paused", weight: "news", draining: "paused",
};

function levelOf(event) {
  if (event.kind !== "breaker") return LEVELS[event.kind] || "news";
  if (/-> OPEN|forced open/.test(event.detail)) return "down";
  return /-> HALF_OPEN/.test(event.detail) ? "degraded" : "fine";
}

function eventsPanel(service) {
  let only = "all";
  let most = SHOWN;
  const items = h("ol", { class: "events" });
  const none = h("div");
  const more = h("button", { type: "button", class: "more", text: "Show more", click: () => ((most += 4 * SHOWN), update()) });
  const foot = h("div", { class: "foot" }, more);
  const tabs = choice("Which events", [["all", "All"], ["trouble", "Trouble"]], only, (value) => {
    only = value;
    update();
  });
  const part = panel("Events", h("span", { class: "grow" }), tabs);
  part.body.append(items, none, foot);

  function update() {
    const about = mesh.events.filter((event) => !service || event.service === service);
    const list = only === "all" ? about : about.filter((event) => isTrouble(event.kind) || (event.kind === "breaker" && levelOf(event) !== "fine"));
    keyed(items, list.slice(0, most), (event) => event.seq, (event) => eventRow(event, service));
    foot.hidden = list.length <= most;
    none.hidden = list.length > 0;
    if (!none.hidden) none.replaceChildren(empty(only === "all" ? "Nothing has happened yet" : "No trouble", only === "all" ? "" : "Nothing of what is remembered was any."));
  }
  return { node: part.node, update };
}

function eventRow(event, service) {
  const time = timeOf(event.at);
  const name = service ? event.instance : event.instance ? `${event.service} / ${event.instance}` : event.service;
  const about = !name ? h("b", { text: "The mesh" })
    : service ? h("b", { text: name || event.service }) : h("a", { href: "#/services/" + encodeURIComponent(event.service), text: name });
  const node = h("li", {}, sign(levelOf(event)), h("div", {}, service && !event.instance ? h("b", { text: service }) : about, h("span", { class: "detail", text: event.detail })), time);
  return { node, update: () => time.age() };
}

// --- limits and doors ---

/** Which of them there were, and how many. */
function kindsOf(counts) {
  const some = Object.entries(counts).filter(([, n]) => n > 0).map(([name, n]) => `${name.replace(/^.*\./, "")} ${whole(n)}`);
  return some.length ? " " + some.join(", ") : "";
}

function limitsPanel() {
  const part = panel("The mesh itself");
  const list = h("dl", { class: "facts" });
  part.body.append(list);
  const fact = (words) => {
    const value = h("dd");
    list.append(h("div", {}, h("dt", { text: words }), value));
    return value;
  };
  const values = ["Up for", "Connections", "In flight", "Waiting", "Refused by limits", "Unknown services", "Registry"].map(fact);
  return {
    node: part.node,
    update(overview) {
      const { doors, refused, registry } = overview;
      const kinds = {
        ...refused, maxConnections: doors.refusedConnections, maxConnectionsPerAddress: doors.refusedPerAddress, queue: doors.refusedQueue,
        maxBufferedBytes: doors.refusedBuffers, maxWatchers: (refused.maxWatchers || 0) + doors.refusedWatchers,
      };
      const all = Object.values(kinds).reduce((sum, n) => sum + n, 0);
      const words = [
        span(now() - overview.startedAt), whole(doors.openConnections), whole(overview.inFlight), whole(overview.queued),
        "", whole(overview.unknownServiceRequests),
        registry && registry.staleMs ? `stale for ${span(registry.staleMs)}` : "up to date",
      ];
      words.forEach((text, n) => n !== 4 && put(values[n], text));
      figure(values[4], whole(all), kindsOf(kinds));
      mark(values[4], "class", all ? "warn" : "");
      mark(values[6], "class", registry && registry.staleMs ? "warn" : "");
    },
  };
}
