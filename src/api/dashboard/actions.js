
// --- what an operator can do, each thing asked for twice ---

function toast(level, words) {
  const node = h("p", { class: "toast" }, sign(level), h("span", { text: words }));
  byId("toasts").append(node);
  setTimeout(() => node.remove(), level === "fine" ? 5000 : 9000);
}

const dialog = {
  node: null,
  then: null,

  /** Asks, and does `then` with what was entered; it stays open until that has worked. */
  ask({ title, text, yes, danger, label, value, kind, then, refuse }) {
    put(byId("ask-title"), title);
    put(byId("ask-text"), text);
    put(byId("ask-yes"), yes);
    byId("ask-yes").className = danger ? "button primary danger" : "button primary";
    byId("ask-field").hidden = !label;
    byId("ask-no").hidden = Boolean(refuse);
    put(byId("ask-label"), label || "");
    byId("ask-input").type = kind || "text";
    byId("ask-input").value = value || "";
    byId("ask-fault").hidden = true;
    dialog.then = then;
    if (!byId("ask").open) byId("ask").showModal();
    (label ? byId("ask-input") : byId("ask-no")).focus();
  },

  begin() {
    byId("ask-no").addEventListener("click", () => byId("ask").close());
    byId("ask-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      byId("ask-yes").disabled = true;
      try {
        await dialog.then(byId("ask-input").value.trim());
        byId("ask").close();
      } catch (error) {
        if (error.status === 403) mesh.mayOnlyLook = true;
        put(byId("ask-fault"), error.status === 403 ? `${error.message}. This token may look, and not change anything.` : error.message);
        byId("ask-fault").hidden = false;
      } finally {
        byId("ask-yes").disabled = false;
      }
    });
  },
};

/** Asks for a token when the mesh wants one. */
function askForToken(why) {
  dialog.ask({
    title: "This mesh asks for a token", text: why, yes: "Continue", label: "Token", kind: "password", refuse: true,
    then: async (value) => {
      if (!value) throw new Error("Enter a token.");
      token.set(value);
      // Nothing that was seen with another one is shown with this one.
      location.reload();
    },
  });
}

/** Makes a change, says so, and looks at what came of it. */
async function change(method, where, body, words) {
  await ask(method, where, body);
  toast("fine", words);
  await soon();
}

/** The menu beside a button; each item has a word and what it does. */
function openMenu(button, items) {
  const menu = byId("menu");
  const close = () => menu.hidePopover();
  const choose = (item) => {
    if (mesh.mayOnlyLook) return;
    close();
    item.then();
  };
  menu.replaceChildren(
    ...items.map((item) =>
      item
        ? h("button", {
            type: "button", role: "menuitem", tabindex: -1, class: item.risk && "risk", "aria-disabled": mesh.mayOnlyLook && "true",
            text: item.words, click: () => choose(item),
          })
        : h("hr"),
    ),
    mesh.mayOnlyLook ? h("p", { text: "Your token may look, and not change anything." }) : "",
  );
  mark(menu, "aria-label", button.getAttribute("aria-label") || button.textContent);
  menu.opener = button;
  menu.showPopover();
  placeMenu();
  menu.querySelector("button").focus({ preventScroll: true });
}

/** Below its button, or above where there is no room. */
function placeMenu() {
  const menu = byId("menu");
  if (!menu.matches(":popover-open")) return;
  const at = menu.opener.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const below = at.bottom + 4 + height < innerHeight;
  menu.style.left = Math.max(8, Math.min(at.right - width, innerWidth - width - 8)) + "px";
  menu.style.top = (below ? at.bottom + 4 : Math.max(8, at.top - 4 - height)) + "px";
}

function beginMenus() {
  const menu = byId("menu");
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Tab") menu.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    items[(to + items.length) % items.length].focus();
  });
  menu.addEventListener("toggle", (event) => {
    mark(menu.opener, "aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed" && !byId("ask").open && menu.opener.isConnected) menu.opener.focus();
  });
  addEventListener("scroll", placeMenu, { passive: true });
  addEventListener("resize", placeMenu);
}

function menuButton(label, items, ...content) {
  const node = h("button", { type: "button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": label }, ...content);
  node.addEventListener("click", () => openMenu(node, items()));
  return node;
}

/** What can be done to an instance. */
function instanceMenu(service, instance) {
  const { id, state } = instance;
  const where = (...rest) => path("services", service, id, ...rest);
  const setState = (to, title, text, yes, words) => ({
    words: title + (to === "ready" ? "" : "…"),
    then: () =>
      dialog.ask({
        title: `${title}: ${id}`, text, yes, label: to === "ready" ? "" : "Reason, for others to read (optional)",
        then: (reason) => change("PUT", where("state"), { state: to, ...(reason ? { reason } : {}) }, `${id} ${words}`),
      }),
  });
  const states = [
    setState("ready", "Make ready", "It gets calls again, and its health is checked.", "Make ready", "is ready"),
    setState("drain", "Drain", "It gets no new calls; those it is answering finish. It stays so across restarts, until it is made ready.", "Drain", "is draining"),
    setState("maint", "Maintenance", "It gets no calls and no health checks until it is made ready.", "Start maintenance", "is in maintenance"),
  ];
  const current = { ready: 0, drain: 1, maint: 2 }[state];
  return [
    ...states.filter((_, n) => n !== current),
    {
      words: "Change weight…",
      then: () =>
        dialog.ask({
          title: `Weight of ${id}`, text: "Its share of the calls, beside the weights of the others. 0 means no calls.", yes: "Change weight",
          label: "Weight, 0 to 1000", value: String(instance.weight), kind: "number",
          then: (value) => {
            const weight = Number(value);
            if (value === "" || !Number.isInteger(weight)) throw new Error("Enter a whole number.");
            return change("PUT", where("weight"), { weight }, `${id} has weight ${weight}`);
          },
        }),
    },
    null,
    {
      words: "Deregister…", risk: true,
      then: () =>
        dialog.ask({
          title: `Deregister ${id}?`, text: `${service} forgets it; calls it is answering finish. It comes back only by registering again.`,
          yes: "Deregister", danger: true, then: () => change("DELETE", where(), undefined, `${id} is deregistered`),
        }),
    },
  ];
}

/** What can be done to a circuit breaker. */
function breakerMenu(service, control) {
  const order = (state, words, text, yes, done, risk) => ({
    words, risk,
    then: () =>
      dialog.ask({
        title: `${words.replace("…", "")}: ${service}`, text, yes, danger: risk,
        then: () => change("PUT", path("services", service, "breaker"), { state }, `Circuit breaker of ${service} ${done}`),
      }),
  });
  return [
    order("reset", "Reset…", "Calls flow again, and what was counted is forgotten.", "Reset", "was reset"),
    control !== "auto" && order("auto", "Automatic…", "The outcomes of calls decide again. What was forced open begins with trial calls.", "Make automatic", "is automatic"),
    control !== "disabled" && order("disabled", "Disable…", "Every call passes, whatever comes of it, until you say otherwise.", "Disable", "is disabled"),
    control !== "forced_open" && order("forced_open", "Force open…", "Every call is refused at once, until you say otherwise.", "Force open", "is forced open", true),
  ].filter(Boolean);
}
