// The scenes: what people do with the dashboard, and what they see then.

import { check, eventually, pause, same } from "./stage.mjs";

const QUICK = { healthCheck: { intervalMs: 500, timeoutMs: 300, fastIntervalMs: 100, unhealthyThreshold: 2 } };

const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ").trim();
const whole = (n) => new Intl.NumberFormat("en").format(n);
const row = (page, name) => page.locator("tbody tr", { has: page.getByText(name, { exact: true }) });

/** As the page writes them. */
function millis(ms) {
  if (ms < 10) return ms.toFixed(ms < 1 ? 2 : 1) + " ms";
  return ms < 1000 ? ms.toFixed(0) + " ms" : (ms / 1000).toFixed(2) + " s";
}

// --- what it shows is what the API says ---

export async function values(mesh, browser) {
  await mesh.instance("orders", "orders-1", () => [200, 12]);
  await mesh.instance("orders", "orders-2", () => [200, 15], { weight: 3, metadata: { version: "1.2.3" }, zone: "north" });
  await mesh.instance("stock", "stock-1", (request) => (request.url === "/broken" ? 500 : 200));
  await mesh.put("/services/stock/policy", { circuitBreaker: { failureThreshold: 100 } });
  await mesh.call("orders", 40);
  await mesh.call("stock", 30);
  await mesh.call("stock", 3, { endpoint: "/broken", method: "POST" });
  // From the front door, as people come in.
  const page = await browser.open("/");
  check(page.url().endsWith("/dashboard"), "a browser is sent to the dashboard", page.url());
  const metrics = await mesh.get("/metrics");
  same([metrics.totalRequests, metrics.failedRequests], [73, 3], "calls");
  same(await text(page.locator("h1")), "stock needs a look", "the verdict");
  const tile = (title) => page.getByRole("region", { name: title, exact: true });
  check((await text(tile("Calls per second"))).includes("73 since the start"), "all calls");
  check((await text(tile("Failed calls"))).includes("3 since the start"), "all failures");
  const overview = await mesh.get("/overview");
  for (const service of overview.services) {
    const { p50, p95, p99 } = service.recent.latencyMs;
    const shown = await text(row(page, service.name));
    for (const value of [millis(p50), millis(p95), millis(p99), `${service.heads.available} / ${service.heads.total}`, "closed"]) {
      check(shown.includes(value), `${service.name} shows ${value}`, shown);
    }
    same(service.requests, metrics.services[service.name].requests, "the two ways to ask agree");
  }
  check((await text(row(page, "stock"))).includes("9.1 %"), "3 of 33 failed", await text(row(page, "stock")));
  await page.getByRole("link", { name: "orders", exact: true }).click();
  same(await text(page.locator("h1")), "orders", "the service");
  const { instances, maxInFlight, strategy } = await mesh.get("/overview/orders");
  for (const one of instances) {
    const shown = await text(row(page, one.id));
    const values = [`${one.host}:${one.port}`, "healthy", `${one.sharePercent.toFixed(0)} %`, millis(one.recent.latencyMs.p95), String(one.weight)];
    for (const value of [...values, ...Object.values(one.metadata), one.zone || ""]) check(shown.includes(value), `${one.id} shows ${value}`, shown);
  }
  same(instances.map((one) => one.sharePercent), [25, 75], "shares follow the weights");
  const facts = await text(page.locator(".facts").first());
  for (const value of [`0 of ${whole(maxInFlight)}`, strategy.replaceAll("_", " "), "100 left"]) check(facts.includes(value), value, facts);
  // What was there before the page was opened is drawn as soon as it is.
  await eventually("a step is over", async () => (await mesh.get("/overview")).step >= 1);
  const again = await browser.open("/dashboard");
  await again.waitForFunction(() => document.querySelectorAll(".chart .line[d^=M]").length === 5);
  check((await again.locator(".chart svg").first().getAttribute("aria-label")).startsWith("Calls per second over the last 15 minutes: now "), "charts say what they show");
  const { points, at } = await mesh.get("/overview");
  same(points.calls.reduce((sum, calls) => sum + calls, 0), 73, "the points hold all calls");
  same(at.length, (await mesh.get("/overview")).step, "each point has its time");
}

// --- where and since when ---

export async function killed(mesh, browser) {
  await mesh.put("/services/orders/policy", QUICK);
  await mesh.instance("orders", "orders-1");
  const second = await mesh.instance("orders", "orders-2");
  await eventually("the first checks", async () => (await mesh.get("/services?name=orders"))[0].instances.every((one) => one.lastHealthCheck > 0));
  const page = await browser.open("/dashboard#/services/orders");
  const front = await browser.open("/dashboard");
  same(await text(front.locator("h1")), "orders is fine", "all is fine");
  second.kill();
  // Interval, fast interval and timeout, two looks of the page, and patience with a busy machine.
  const { intervalMs, fastIntervalMs, timeoutMs } = QUICK.healthCheck;
  const limit = intervalMs + fastIntervalMs + timeoutMs + 2 * 2000 + 4000;
  const dead = row(page, "orders-2");
  await dead.locator(".pill[data-level=down]").waitFor({ timeout: limit });
  const shown = await text(dead);
  check(shown.includes("unhealthy") && shown.includes("check got no connection"), "it says why", shown);
  check((await text(row(page, "orders-1"))).includes("healthy"), "the other one is well");
  same(await text(page.locator(".troubles")), "1 of 2 instances is unhealthy", "the service says so");
  check(/^Needs a look for \d+ s\. 1 of 2 instances available\.$/.test(await text(page.locator(".sub"))), "since when", await text(page.locator(".sub")));
  await page.locator(".events li", { hasText: "check got no connection" }).waitFor();
  await front.getByRole("heading", { name: "orders needs a look" }).waitFor();
  check((await front.title()).startsWith("● "), "the tab says so", await front.title());
  await eventually("it is read aloud", async () => (await front.locator("#say").textContent()) === "orders needs a look");
  await mesh.ask("DELETE", "/services/orders/orders-2");
  await front.getByRole("heading", { name: "orders is fine" }).waitFor();
  await eventually("it has gone", async () => (await page.locator("tbody tr").count()) === 1);
}

// --- what an operator does ---

export async function actions(mesh, browser) {
  await mesh.instance("orders", "orders-1");
  await mesh.instance("orders", "orders-2");
  const page = await browser.open("/dashboard#/services/orders", { expected: (words) => /40[04]/.test(words) });
  const choose = async (button, item) => {
    await page.getByRole("button", { name: button }).click();
    await page.getByRole("menuitem", { name: item }).click();
  };
  const confirm = (words) => page.getByRole("dialog").getByRole("button", { name: words, exact: true }).click();
  const instance = async (id) => (await mesh.get("/services/orders")).instances.find((one) => one.id === id);
  const closed = () => page.getByRole("dialog").waitFor({ state: "hidden" });

  await choose("Actions for orders-1", "Drain");
  await page.keyboard.press("Escape");
  await closed();
  same((await instance("orders-1")).state, "ready", "nothing is done without a yes");

  await choose("Actions for orders-1", "Drain");
  await page.getByLabel("Reason").fill("new <b>version</b>");
  await confirm("Drain");
  await closed();
  await row(page, "orders-1").getByText("draining").waitFor();
  await row(page, "orders-1").getByText("(new <b>version</b>)").waitFor();
  same([(await instance("orders-1")).state, (await instance("orders-1")).stateReason], ["drain", "new <b>version</b>"], "the mesh was told");
  await mesh.call("orders", 10);
  same((await instance("orders-1")).requestCount, 0, "it gets no calls");
  await choose("Actions for orders-1", "Make ready");
  await confirm("Make ready");
  await row(page, "orders-1").getByText("healthy").waitFor();
  await choose("Actions for orders-1", "Maintenance");
  await confirm("Start maintenance");
  await row(page, "orders-1").getByText("maintenance").waitFor();

  await choose("Actions for orders-2", "Change weight");
  await page.getByLabel("Weight, 0 to 1000").fill("5000");
  await confirm("Change weight");
  await page.getByRole("alert").filter({ hasText: "weight" }).waitFor();
  await page.getByLabel("Weight, 0 to 1000").fill("7");
  await confirm("Change weight");
  await closed();
  await eventually("the weight is shown", async () => (await text(row(page, "orders-2").locator("td[data-is=weight]"))) === "7");
  same((await instance("orders-2")).weight, 7, "the weight");

  const breaker = page.locator(".facts dd").first();
  const isShown = (words) => eventually(`the circuit breaker is ${words}`, async () => (await text(breaker)) === words);
  for (const [item, words, then] of [["Force open", "Force open", "forced open"], ["Disable", "Disable", "disabled"], ["Automatic", "Make automatic", "closed"],
    ["Force open", "Force open", "forced open"], ["Reset", "Reset", "closed"]]) {
    await choose("Circuit breaker", item);
    await confirm(words);
    await closed();
    await isShown(then);
  }
  same((await mesh.get("/services/orders/explain")).breakerControl, "auto", "the circuit breaker");

  await choose("Actions for orders-1", "Deregister");
  await confirm("Deregister");
  await closed();
  await eventually("it has gone", async () => (await page.locator("tbody tr").count()) === 1);
  same((await mesh.get("/services/orders")).instances.map((one) => one.id), ["orders-2"], "the instances");
  await choose("Actions for orders-2", "Deregister");
  await confirm("Deregister");
  await page.getByText("It is not registered").waitFor();
}

// --- text stays text ---

export async function hostile(mesh, browser) {
  const image = "<img src=x onerror=\"pwned=1\">";
  const odd = `"'\`><script>pwned=2</script>\u001b[31mred\u202e`;
  const metadata = { [image]: image, quotes: odd, long: "long-".repeat(40), url: "javascript:pwned=3" };
  const name = "a".repeat(63);
  await mesh.instance(name, "i".repeat(63), () => 200, { metadata });
  await mesh.instance("orders", "orders-1", () => 200, { metadata });
  await mesh.put(`/services/orders/orders-1/state`, { state: "drain", reason: image + odd });
  const answers = [];
  for (const path of [`/${encodeURIComponent(image)}`, "/?q=%3Cscript%3E", "/" + "x".repeat(4000)]) {
    answers.push((await mesh.ask("POST", "/invoke", { serviceName: name, endpoint: path })).status);
  }
  same(answers, [200, 200, 200], "the calls");
  for (const [width, height] of [[1360, 900], [390, 844]]) {
    for (const place of ["#/", "#/services/orders", `#/services/${name}`, `#/services/${encodeURIComponent(image)}`, "#/services/%zz"]) {
      const page = await browser.open("/dashboard" + place, { width, height, expected: (words) => words.includes("404") });
      const made = await page.evaluate(() => ({ pwned: window.pwned, images: document.querySelectorAll("main img, main script, main b b").length, wide: document.documentElement.scrollWidth - document.documentElement.clientWidth }));
      same(made, { images: 0, wide: 0 }, `${place} at ${width}`);
      if (place === "#/services/orders") {
        const shown = await text(page.locator("main"));
        check(shown.includes(image), "it is shown as text", shown);
        same(await page.locator(".tag").first().getAttribute("title"), `${image}: ${image}`, "a title is text too");
      }
      if (place.includes(name)) await browser.picture(page, `long-names-${width}`);
      await page.context().close();
    }
  }
}

// --- without a mouse, and without eyes ---

export async function keyboard(mesh, browser) {
  await mesh.instance("orders", "orders-1");
  const page = await browser.open("/dashboard");
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") || document.activeElement.textContent.trim());
  const tabTo = (words) =>
    eventually(`Tab leads to ${words}`, async () => {
      await page.keyboard.press("Tab");
      return (await focused()) === words;
    });
  await page.keyboard.press("Tab");
  same(await focused(), "Skip to content", "the first stop");
  await page.keyboard.press("Enter");
  same(await page.evaluate(() => document.activeElement.id), "main", "it leads to the content");
  await tabTo("orders");
  check(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none"), "focus can be seen");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "orders", level: 1 }).waitFor();
  await tabTo("Actions for orders-1");
  await page.keyboard.press("Enter");
  same(await focused(), "Drain…", "the menu has the focus");
  await page.keyboard.press("ArrowDown");
  same(await focused(), "Maintenance…", "arrows move in it");
  await page.keyboard.press("End");
  same(await focused(), "Deregister…", "to its end");
  await page.keyboard.press("Escape");
  same(await focused(), "Actions for orders-1", "and back to where it was opened");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  await page.getByLabel("Reason").waitFor();
  await page.keyboard.type("by keyboard");
  await page.keyboard.press("Enter");
  await row(page, "orders-1").getByText("draining").waitFor();
  same((await mesh.get("/services/orders")).instances[0].stateReason, "by keyboard", "drained");
  // What a screen reader finds.
  for (const [role, count] of [["banner", 1], ["main", 1], ["heading", 1]]) {
    const all = page.getByRole(role, role === "heading" ? { level: 1 } : {});
    same(await all.count(), count, role);
  }
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, a, input, [role=img]")]
      .filter((node) => node.checkVisibility() && !(node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && node.labels.length)))
      .map((node) => node.outerHTML));
  same(nameless, [], "everything that can be used has a name");
  const headings = await page.evaluate(() => [...document.querySelectorAll("th")].filter((node) => node.scope !== "col" || !node.textContent.trim()).length);
  same(headings, 0, "columns have names");
  // Letters that can be read, in both colours (WCAG 2.2, contrast of at least 4.5).
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    const pale = await page.evaluate(() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const hex = style.getPropertyValue("--" + name).trim().slice(1);
        const full = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
        const [r, g, b] = [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16) / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
      const letters = ["text", "soft", "weak", "accent", "fine", "degraded", "down", "paused"];
      return letters.flatMap((name) => ["face", "back", "sunk"].map((ground) => [name, ground, contrast(name, ground).toFixed(2)])).filter(([, , ratio]) => !(ratio >= 4.5));
    });
    same(pale, [], `what is too pale to read, ${scheme}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
  // Colours, as chosen, and chosen again after a reload.
  const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await colour();
  for (const words of ["Colours: as the system", "Colours: light"]) await page.getByRole("button", { name: words }).click();
  const dark = await colour();
  check(light !== dark, "it is dark now", dark);
  await page.reload();
  same(await colour(), dark, "it stays so");
  await page.getByRole("button", { name: "Colours: dark" }).click();
  same(await colour(), light, "as the system has it");
}

// --- who may ---

export async function tokens(mesh, browser) {
  await mesh.instance("orders", "orders-1");
  const known = { "Bearer may-look": false, "Bearer may-change": true };
  const refuse = (status, error) => ({ status, json: { error, reason: status === 401 ? "unauthorized" : "forbidden" } });
  const guard = async (route) => {
    const request = route.request();
    const mayChange = known[request.headers().authorization];
    if (mayChange === undefined) return route.fulfill(refuse(401, "a token is needed"));
    if (!mayChange && request.method() !== "GET") return route.fulfill(refuse(403, "the token lacks the scope admin"));
    return route.continue();
  };
  const page = await browser.open("/dashboard", {
    live: false, expected: (words) => /40[13]/.test(words), route: (page) => page.route(/\/(overview|events|services|traces)/, guard),
  });
  const give = async (token) => {
    await page.getByRole("dialog").getByLabel("Token").fill(token);
    await page.getByRole("button", { name: "Continue" }).click();
  };
  await page.getByText("This mesh asks for a token").waitFor();
  await give("wrong");
  await page.getByText("not known here").waitFor();
  await give("may-look");
  await page.getByRole("heading", { name: "orders is fine" }).waitFor();
  same(await page.evaluate(() => [localStorage.length, document.cookie, sessionStorage.getItem("weft-token")]), [0, "", "may-look"], "where the token is kept");
  await page.getByRole("link", { name: "orders", exact: true }).click();
  await page.getByRole("button", { name: "Actions for orders-1" }).click();
  await page.getByRole("menuitem", { name: "Drain" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Drain", exact: true }).click();
  await page.getByRole("alert").filter({ hasText: "This token may look, and not change anything." }).waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Actions for orders-1" }).click();
  await page.getByText("Your token may look, and not change anything.").waitFor();
  same(await page.getByRole("menuitem", { name: "Drain" }).getAttribute("aria-disabled"), "true", "what may not be done");
  await page.keyboard.press("Escape");
  const seen = async () => (await page.locator("main").innerText()) + (await page.title());
  check((await seen()).includes("orders"), "what may be seen");
  known["Bearer may-look"] = undefined;
  await page.getByText("not known here").waitFor();
  check(!(await page.locator("main").innerText()).includes("orders"), "nothing is seen with a token that was taken away");
  known["Bearer may-look"] = false;
  await give("may-look");
  await page.getByRole("heading", { name: "orders", exact: true }).waitFor();
  await page.getByRole("button", { name: "Forget token" }).click();
  await page.getByText("It is kept in this tab only").waitFor();
  check(!(await seen()).includes("orders"), "nothing is left of what was seen");
  await give("may-change");
  await page.getByRole("button", { name: "Actions for orders-1" }).click();
  await page.getByRole("menuitem", { name: "Drain" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Drain", exact: true }).click();
  await row(page, "orders-1").getByText("draining").waitFor();
}

// --- a mesh that cannot be reached, and a page nobody looks at ---

export async function absence(mesh, browser) {
  await mesh.instance("orders", "orders-1");
  const page = await browser.open("/dashboard", { expected: (words) => words.includes("ERR_") });
  await page.context().setOffline(true);
  await page.getByText("Connection lost, trying again").waitFor();
  check((await text(page.locator("tbody"))).includes("orders"), "what was known stays");
  await page.context().setOffline(false);
  await page.locator("#live[data-is=live]").waitFor();
  const hide = (hidden) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  await hide(true);
  await pause(300);
  const before = browser.requests.length;
  await pause(2500);
  same(browser.requests.length - before, 0, "requests of a hidden page");
  await hide(false);
  await eventually("it looks again", () => browser.requests.length > before);
}

// --- many ---

export async function many(mesh, browser) {
  const first = await mesh.instance("fleet", "fleet-000");
  for (let n = 1; n < 200; n++) {
    const registered = await mesh.ask("POST", "/register", { name: "fleet", id: `fleet-${String(n).padStart(3, "0")}`, host: "127.0.0.1", port: first.port, zone: "abc"[n % 3] });
    same(registered.status, 200, "registered");
  }
  for (let n = 0; n < 30; n++) await mesh.ask("POST", "/register", { name: `small-${n}`, id: "only", host: "127.0.0.1", port: first.port });
  await mesh.put("/services/fleet/fleet-150/state", { state: "drain", reason: "deploy" });
  await mesh.put("/services/fleet/fleet-160/state", { state: "maint", reason: "disk" });
  await mesh.call("fleet", 600, { together: 16 });
  const page = await browser.open("/dashboard#/services/fleet");
  same(await page.locator("tbody tr").count(), 50, "a page of instances");
  await page.getByText("Show more: 150 are not shown").click();
  await eventually("more are shown", async () => (await page.locator("tbody tr").count()) === 150);
  // Those that are out of service come first, wherever they are.
  same(await page.locator("tbody tr b").first().innerText(), "fleet-150", "the first");
  await page.getByRole("button", { name: "Instance" }).click();
  await eventually("sorted by name", async () => (await page.locator("tbody tr b").first().innerText()) === "fleet-000");
  await browser.picture(page, "many");
  const front = await browser.open("/dashboard");
  same(await front.locator("tbody tr").count(), 31, "services");
  await front.getByRole("searchbox").fill("SMALL-2");
  await eventually("found", async () => (await front.locator("tbody tr").count()) === 11);
  await front.getByRole("searchbox").fill("nobody");
  await front.getByText("No service has that in its name").waitFor();
}


// --- from "something is slow" to the instance and the attempt ---

export async function clicks(mesh, browser) {
  for (const [id, ms] of [["orders-1", 4], ["orders-2", 600], ["orders-3", 5]]) await mesh.instance("orders", id, () => [200, ms]);
  await mesh.call("orders", 48, { endpoint: "/basket", together: 6 });
  await eventually("somebody is slow", async () => (await mesh.get("/overview")).services[0].troubles.length > 0);
  const page = await browser.open("/dashboard");
  const trouble = page.getByRole("listitem").filter({ hasText: "orders-2 is much slower than the others" });
  await trouble.getByRole("link").click();
  await row(page, "orders-2").getByText("slow", { exact: true }).waitFor();
  check(!(await row(page, "orders-1").getByText("slow", { exact: true }).isVisible()), "and only that one");
  const first = page.locator(".calls > li").first();
  await first.getByText("/basket").click();
  const fall = await text(first.locator(".fall"));
  const [slowest] = (await mesh.get("/traces?service=orders&slowerThanMs=300")).traces.sort((a, b) => b.durationMs - a.durationMs);
  const [attempt] = slowest.attempts;
  check(fall.startsWith(`1 · orders-2 200 · `) && fall.includes(millis(attempt.durationMs)) && fall.includes(slowest.requestId), "the instance and the attempt", fall);
  await pause(2500);
  check(await first.locator(".fall").isVisible(), "it stays open while the page goes on looking");
}

/** Calls that fail are there with every attempt, and with the waits between. */
export async function failures(mesh, browser) {
  await mesh.instance("orders", "orders-1", () => 503);
  await mesh.instance("orders", "orders-2", () => 500);
  await mesh.call("orders", 1, { endpoint: "/basket?secret=1" });
  const page = await browser.open("/dashboard");
  await page.getByRole("button", { name: "Failed", exact: true }).click();
  const call = page.locator(".calls > li").first();
  await call.getByText("upstream status").waitFor();
  await call.getByText("/basket", { exact: true }).click();
  await call.locator(".fall .row").nth(3).waitFor();
  same(await call.locator(".fall .row").count(), 4, "attempts");
  same(await call.locator(".fall .lane .failed").count() >= 4, true, "all of them failed");
  check((await call.locator(".fall .lane .wait").count()) >= 2, "with waits between");
  const [kept] = (await mesh.get("/traces?failed=true")).traces;
  for (const one of kept.attempts) check((await text(call.locator(".fall"))).includes(`${one.attempt} · ${one.instance} ${one.status}`), `attempt ${one.attempt}`);
}

// --- pictures, to be looked at ---

/** A day in the life of some services, which takes so many minutes and goes on until the answer is called. */
async function live(mesh, minutes) {
  const began = Date.now();
  const part = () => (Date.now() - began) / (minutes * 60000);
  const of = (version) => ({ metadata: { version, region: "eu-west-1" } });
  const spread = (least, most) => least + Math.random() ** 3 * (most - least);
  const incident = () => part() > 0.42 && part() < 0.5;
  for (const n of [1, 2, 3]) await mesh.instance("user-service", `user-service-${n}`, () => [200, spread(3, n === 2 ? 25 : 20)], of("2.1.0"));
  for (const n of [1, 2]) {
    const answer = () => [incident() && Math.random() < 0.4 ? 500 : Math.random() < 0.02 ? 503 : 200, spread(12, incident() ? 240 : 70)];
    await mesh.instance("payment-service", `payment-${n}`, answer, of("1.4.2"));
  }
  for (const n of [1, 2, 3, 4]) await mesh.instance("search", `search-${n}`, () => [200, spread(15, 120)], of(n === 4 ? "0.9.1" : "0.9.0"));
  await mesh.instance("inventory", "inventory-1", () => 200, of("3.0.0"));
  const dies = await mesh.instance("inventory", "inventory-2", () => 200, of("3.0.0"));
  await mesh.instance("mailer", "mailer-1", () => [202, spread(2, 9)], of("1.0.3"));
  await mesh.put("/services/inventory/policy", QUICK);
  await mesh.put("/services/search/search-4/state", { state: "drain", reason: "canary of 0.9.1 is over" });
  const calls = [["user-service", "/api/users/7"], ["search", "/q?text=weft"], ["payment-service", "/api/payments", "POST"], ["inventory", "/items/1"],
    ["user-service", "/api/users/8"], ["mailer", "/send", "POST"]];
  const stop = mesh.keepCalling(calls, () => 17 - 7 * Math.sin(part() * 9) + 4 * Math.sin(part() * 41));
  while (part() < 0.8) await pause(50);
  dies.kill();
  while (part() < 1) await pause(50);
  return stop;
}

export async function pictures(mesh, browser) {
  const nobody = await browser.open("/dashboard");
  await nobody.getByText("Nobody is registered yet").waitFor();
  await browser.picture(nobody, "empty");
  await nobody.context().close();
  const stop = await live(mesh, Number(process.env.WEFT_PICTURE_MINUTES || 0.12));
  await eventually("a step is over", async () => (await mesh.get("/overview")).points.calls.length > 1);
  const phone = { width: 390, height: 844 };
  for (const [name, place, options] of [["light", "#/", {}], ["dark", "#/", { scheme: "dark" }], ["phone", "#/", phone], ["service", "#/services/payment-service", {}],
    ["service-dark", "#/services/payment-service", { scheme: "dark" }], ["service-phone", "#/services/inventory", phone]]) {
    const page = await browser.open("/dashboard" + place, options);
    const call = page.locator(".calls summary").first();
    if (name.startsWith("service") && (await call.count())) await call.click();
    await page.evaluate(() => scrollTo(0, 0));
    await browser.picture(page, name, { fullPage: true });
    await page.context().close();
  }
  if (process.env.WEFT_PICTURE) {
    const page = await browser.open("/dashboard", { width: 1240, height: 786 });
    await page.mouse.move(0, 0);
    await page.screenshot({ path: process.env.WEFT_PICTURE, animations: "disabled" });
  }
  await stop();
}
