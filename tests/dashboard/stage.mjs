// What the scenes are played on: a mesh that somebody else has started, instances for it, and a browser that notices everything.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";

const { chromium } = createRequire(process.env.WEFT_BROWSER_MODULES + "/")("playwright-core");

/** How long anything may take that is bound to happen. */
export const PATIENCE = 20000;

export function check(holds, what, seen) {
  if (!holds) throw new Error(what + (seen === undefined ? "" : `; seen: ${typeof seen === "string" ? seen : JSON.stringify(seen)}`));
}

export function same(got, wanted, what) {
  check(JSON.stringify(got) === JSON.stringify(wanted), `${what}: ${JSON.stringify(wanted)} was expected`, got);
}

/** Looks again and again until `look` gives something that is not false. */
export async function eventually(what, look, patience = PATIENCE) {
  const end = Date.now() + patience;
  let last;
  for (;;) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`this never happened: ${what}${last ? ` (${last.message})` : ""}`);
    await pause(25);
  }
}

/** The mesh. */
export class Mesh {
  constructor(url) {
    this.url = url;
    this.instances = [];
  }

  async ask(method, path, body) {
    const answer = await fetch(this.url + path, { method, body: body && JSON.stringify(body) });
    const text = await answer.text();
    return { status: answer.status, headers: answer.headers, text, json: text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : null };
  }

  async get(path) {
    const answer = await this.ask("GET", path);
    check(answer.status === 200, `GET ${path}`, answer.text);
    return answer.json;
  }

  async put(path, body) {
    const answer = await this.ask("PUT", path, body);
    check(answer.status === 200, `PUT ${path}`, answer.text);
  }

  /** Registers an instance that answers every request by `answer(request)`: a status, or one with a wait, `[status, ms]`. */
  async instance(service, id, answer = () => 200, more = {}) {
    const server = createServer(async (request, response) => {
      request.resume();
      const [status, ms] = [answer(request)].flat();
      if (ms) await pause(ms);
      response.writeHead(request.url === "/health" && status >= 500 ? 200 : status, { "content-type": "application/json" });
      response.end("{}");
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    const port = server.address().port;
    const url = `http://127.0.0.1:${port}/health`;
    const registered = await this.ask("POST", "/register", { name: service, id, host: "127.0.0.1", port, healthCheckUrl: url, ...more });
    check(registered.status === 200, `${id} is registered`, registered.text);
    const instance = {
      port,
      kill: () => {
        server.closeAllConnections();
        server.close();
      },
    };
    this.instances.push(instance);
    return instance;
  }

  /** Makes so many calls, some at a time. */
  async call(service, times = 1, { endpoint = "/", method = "GET", together = 8 } = {}) {
    let left = times;
    const one = async () => {
      while (left-- > 0) await this.ask("POST", "/invoke", { serviceName: service, endpoint, method });
    };
    await Promise.all(Array.from({ length: Math.min(times, together) }, one));
  }

  /** Keeps making such calls, with so many milliseconds between, until the answer is called. */
  keepCalling(calls, pauseMs) {
    let going = true;
    const run = async () => {
      for (let n = 0; going; n++) {
        const [service, endpoint, method] = calls[n % calls.length];
        this.ask("POST", "/invoke", { serviceName: service, endpoint: endpoint || "/", method: method || "GET" }).catch(() => {});
        await pause(pauseMs());
      }
    };
    const done = run();
    return async () => {
      going = false;
      await done;
    };
  }
}

/** A browser with the dashboard in it. */
export class Browser {
  constructor(mesh, folder) {
    Object.assign(this, { mesh, folder, complaints: [], requests: [] });
  }

  async open(path = "/dashboard", { scheme = "light", width = 1360, height = 900, expected = () => false, route, live = true } = {}) {
    if (!this.chromium) this.chromium = await chromium.launch({ executablePath: process.env.WEFT_CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
    const context = await this.chromium.newContext({ colorScheme: scheme, viewport: { width, height }, locale: "en-GB", timezoneId: "UTC" });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && !expected(message.text()) && this.complaints.push(message.text()));
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("dialog", (dialog) => this.complaints.push("a dialog of the browser: " + dialog.message()));
    page.on("request", (request) => this.requests.push(request.url()));
    if (route) await route(page);
    await page.goto(this.mesh.url + path);
    if (live) await page.locator("#live[data-is=live]").waitFor();
    return page;
  }

  async picture(page, name, options = {}) {
    await page.mouse.move(0, 0);
    await page.screenshot({ path: `${this.folder}/${name}.png`, animations: "disabled", caret: "hide", ...options });
  }

  pages() {
    return this.chromium ? this.chromium.contexts().flatMap((context) => context.pages()) : [];
  }

  /** Nothing went wrong, and nobody else was asked. */
  judge() {
    same(this.complaints, [], "the console stays empty");
    const strange = this.requests.filter((url) => !url.startsWith(this.mesh.url + "/") && !url.startsWith("data:"));
    same(strange, [], "no request leaves the origin");
  }

  async close() {
    if (this.chromium) await this.chromium.close();
  }
}

export { pause };
