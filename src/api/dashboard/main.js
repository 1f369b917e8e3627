
// --- the page: what is open, and when to look again ---

let view = null;
let shown = null;
let timer = 0;
let looking = null;
let misses = 0;
let said = "";

function route() {
  const [, service] = location.hash.match(/^#\/services\/(.+)$/) || [];
  const wanted = service ? "service " + service : "overview";
  if (wanted === shown) return;
  const first = shown === null;
  shown = wanted;
  Object.assign(mesh, { open: null, step: 0, whole: new Track(), tracks: new Map() });
  let name = service;
  try {
    name = service && decodeURIComponent(service);
  } catch {
    // As it was typed.
  }
  view = name ? serviceView(name) : overviewView();
  byId("main").replaceChildren(view.node);
  if (!first) {
    scrollTo(0, 0);
    byId("main").focus();
  }
  if (mesh.overview && !name) view.update();
  else view.node.hidden = true;
  soon();
}

/** Looks now, or once more when a look is under way. */
async function soon() {
  clearTimeout(timer);
  if (looking) await looking;
  looking = turn();
  await looking;
}

async function turn() {
  clearTimeout(timer);
  const about = view;
  try {
    await look();
    if (about === view) show();
    misses = 0;
    state("live", "Live");
  } catch (error) {
    if (error.status === 401) {
      state("lost", "Token needed");
      // What was seen may not be seen any more.
      about.node.hidden = true;
      if (!byId("ask").open) askForToken(token.get() ? "The one you gave is not known here, or no longer." : "It is kept in this tab only, and forgotten with it.");
    } else if (error instanceof Refusal) state("lost", error.status === 403 ? "Not allowed to look" : error.message);
    else state("lost", "Connection lost, trying again");
    misses++;
  }
  looking = null;
  // Nobody looks at a page that is hidden.
  if (!document.hidden) timer = setTimeout(() => soon(), Math.min(EVERY * 2 ** Math.min(misses, 3), SLOWEST));
}

function show() {
  const { overview } = mesh;
  view.node.hidden = false;
  view.update();
  put(byId("meta"), `${overview.version} · up ${span(now() - overview.startedAt)}${overview.ready ? "" : " · draining"}`);
  byId("forget").hidden = !token.get();
  const bad = overview.level === "down" || overview.level === "degraded";
  document.title = (bad ? "● " : "") + view.title();
  const color = { fine: "1a7f55", degraded: "c9820a", down: "cc2f45", paused: "80808c" }[overview.level];
  const icon = `data:image/svg+xml,%3Csvg xmlns='${SVG}' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='6' fill='%23${color}'/%3E%3C/svg%3E`;
  mark(byId("icon"), "href", icon);
  const heading = document.querySelector("h1");
  // Read aloud when it changes, not with each look.
  if (heading && heading.textContent !== said) put(byId("say"), (said = heading.textContent));
}

function state(is, words) {
  mark(byId("live"), "data-is", is);
  put(byId("live").lastChild, words);
}

const THEMES = {
  "": ["Colours: as the system", "M10 2.5a7.5 7.5 0 100 15 7.5 7.5 0 000-15zM10 2.5v15M10 6l5.5-1M10 10h7.5M10 14l5.5 1"],
  light: ["Colours: light", "M10 6.5a3.5 3.5 0 100 7 3.5 3.5 0 000-7zM10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6L16 16M16 4l-1.4 1.4M5.4 14.6L4 16"],
  dark: ["Colours: dark", "M16.5 12A7 7 0 018 3.5a7 7 0 108.5 8.5z"],
};

function theme(next) {
  mark(document.documentElement, "data-theme", next || null);
  const [words, shape] = THEMES[next];
  mark(byId("theme"), "aria-label", words);
  mark(byId("theme"), "title", words);
  byId("theme").replaceChildren(s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, s("path", { d: shape })));
}

function begin() {
  let chosen = localStorage.getItem("weft-theme") || "";
  if (!(chosen in THEMES)) chosen = "";
  theme(chosen);
  byId("theme").addEventListener("click", () => {
    const all = Object.keys(THEMES);
    chosen = all[(all.indexOf(chosen) + 1) % all.length];
    localStorage.setItem("weft-theme", chosen);
    theme(chosen);
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  byId("forget").addEventListener("click", () => {
    token.drop();
    location.reload();
  });
  dialog.begin();
  beginMenus();
  addEventListener("hashchange", route);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : soon()));
  route();
}

begin();
