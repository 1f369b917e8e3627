
// --- what is known of the mesh, and how it is asked ---

const EVERY = 2000;
const SLOWEST = 10000;
const MOST_SERVICES = 200;
const MOST_EVENTS = 400;

const mesh = {
  overview: null,
  whole: new Track(),
  tracks: new Map(),
  /** The newest step that has been seen; 0 asks for all there is. */
  step: 0,
  stamp: "",
  find: "",
  events: [],
  eventsSeen: 0,
  /** The service that is open: its name, what is known of it, and which of its instances are asked for. */
  open: null,
  /** How far the clock of the mesh is ahead of the browser's. */
  ahead: 0,
  /** The token may look and not change anything. */
  mayOnlyLook: false,
};

const now = () => Date.now() + mesh.ahead;

/** In this tab only, and gone with it. */
const token = {
  get: () => sessionStorage.getItem("weft-token") || "",
  set: (value) => sessionStorage.setItem("weft-token", value),
  drop: () => sessionStorage.removeItem("weft-token"),
};

class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(method, path, body) {
  const headers = { accept: "application/json" };
  if (token.get()) headers.authorization = "Bearer " + token.get();
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method, headers, body: body && JSON.stringify(body), credentials: "omit", redirect: "error",
    cache: method === "GET" ? "no-cache" : "no-store", signal: AbortSignal.timeout(SLOWEST),
  });
  const time = Number(answer.headers.get("x-mesh-time"));
  if (time) mesh.ahead = time - Date.now();
  const text = await answer.text();
  let json = null;
  try {
    json = JSON.parse(text);
  } catch {
    // Whatever it is, it is no answer of the API.
  }
  if (!answer.ok) throw new Refusal(answer.status, (json && json.error) || `the mesh answered ${answer.status}`);
  return json;
}

const path = (...names) => "/" + names.map(encodeURIComponent).join("/");

/** One look at everything that is shown. */
async function look() {
  const overview = await ask("GET", `/overview?since=${mesh.step}&limit=${mesh.open ? 1 : MOST_SERVICES}&q=${encodeURIComponent(mesh.open ? "" : mesh.find)}`);
  if (mesh.overview && mesh.overview.startedAt !== overview.startedAt) {
    // Another process: nothing that was seen before is about it.
    Object.assign(mesh, { overview: null, whole: new Track(), tracks: new Map(), step: 0, events: [], eventsSeen: 0 });
    if (mesh.open) Object.assign(mesh.open, { step: 0, track: new Track() });
    return look();
  }
  const seen = mesh.step;
  const isNew = (service) => !mesh.open && !mesh.tracks.has(service.name) && service.requests > 0;
  if (seen > 0 && overview.services.some(isNew)) {
    // Its past is not known here: everything again.
    Object.assign(mesh, { whole: new Track(), tracks: new Map(), step: 0 });
    return look();
  }
  const steps = overview.at.length;
  mesh.whole.add(overview.points, steps);
  if (!mesh.open) {
    for (const service of overview.services) {
      if (!mesh.tracks.has(service.name)) mesh.tracks.set(service.name, new Track());
      mesh.tracks.get(service.name).add(service.points || {}, steps);
    }
    const shown = new Set(overview.services.map((service) => service.name));
    for (const name of mesh.tracks.keys()) if (!shown.has(name)) mesh.tracks.delete(name);
  } else mesh.tracks.clear();
  Object.assign(mesh, { overview, step: overview.step, stamp: overview.startedAt + "/" + overview.step });
  if (overview.events !== mesh.eventsSeen) await lookAtEvents();
  // One that is not there comes with an event.
  if (mesh.open && mesh.open.goneAt !== mesh.eventsSeen) await lookInto(mesh.open);
}

async function lookAtEvents() {
  const page = await ask("GET", "/events?since=" + mesh.eventsSeen);
  mesh.events = page.events.reverse().concat(mesh.events).slice(0, MOST_EVENTS);
  mesh.eventsSeen = page.next;
}

async function lookInto(open) {
  const { name, sort, limit, step } = open;
  try {
    const detail = await ask("GET", `${path("overview", name)}?since=${step}&sort=${sort}&limit=${limit}`);
    open.track.add(detail.points, detail.at.length);
    Object.assign(open, { detail, step: detail.step, goneAt: null });
  } catch (error) {
    if (error.status !== 404) throw error;
    Object.assign(open, { detail: null, goneAt: mesh.eventsSeen });
  }
}
