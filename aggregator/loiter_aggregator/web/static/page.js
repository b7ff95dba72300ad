// What a page does by itself: asks again, says how old it is and when the aggregator is lost, and takes keys.
"use strict";
(() => {
  const EVERY = 5000; // milliseconds between two answers
  const AFTER_LOSS = 2000;
  const SOON = 50; // where an answer is on its way; each time twice as long

  const $ = (id) => document.getElementById(id);
  const store = {
    get: (key) => { try { return localStorage.getItem(`loiter.${key}`); } catch { return null; } },
    set: (key, value) => {
      try {
        if (value === null) localStorage.removeItem(`loiter.${key}`);
        else localStorage.setItem(`loiter.${key}`, value);
      } catch { /* switched off */ }
    },
  };

  // Times are in UTC, as in logs; the local time is in the tip.
  const localTimes = (root) => {
    for (const one of root.querySelectorAll("time[datetime]")) {
      const date = new Date(one.dateTime);
      if (!Number.isNaN(date.getTime())) one.title = `${date.toLocaleString()} here`;
    }
  };

  // Light, dark, as the system.
  const THEMES = { "": "light", light: "dark", dark: "" };
  const NAMES = { "": "auto", light: "light", dark: "dark" };
  const root = document.documentElement;
  const showTheme = () => {
    const theme = root.dataset.theme || "";
    $("theme").textContent = `◐ ${NAMES[theme]}`;
    $("theme").setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
    $("theme").title = "Colours: light, dark, or as the system";
  };
  const nextTheme = () => {
    const theme = THEMES[root.dataset.theme || ""];
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    store.set("theme", theme || null);
    showTheme();
    document.dispatchEvent(new CustomEvent("loiter:theme"));
  };

  // Asking again.
  let shownAt = performance.now(); // when what is shown came
  let ageThen = 0; // how old it was then, in seconds
  let lostAt = null;
  let asking = false;
  let paused = store.get("paused") === "yes";
  let timer = 0;
  let soon = SOON;

  const live = () => $("live");
  const mode = () => live()?.dataset.refresh || "never";
  const goesOn = () => mode() === "auto" && !paused && !document.hidden;

  const schedule = () => {
    clearTimeout(timer);
    if (!live()) return;
    const underWay = live().dataset.soon === "yes" && (!live().dataset.age || goesOn() || mode() === "never");
    if ((!underWay && !goesOn() && lostAt === null) || document.hidden) return;
    const usual = lostAt === null ? EVERY : AFTER_LOSS;
    timer = setTimeout(ask, underWay ? Math.min(soon, usual) : usual);
    soon = underWay ? 2 * soon : SOON;
  };
  const ask = () => {
    if (!live() || asking) return;
    asking = true;
    window.htmx.trigger(live(), "refresh");
  };
  const came = () => {
    const age = Number.parseFloat(live().dataset.age);
    ageThen = Number.isNaN(age) ? 0 : age;
    shownAt = performance.now();
    lostAt = null;
    $("lost").hidden = true;
    localTimes(live());
    if ($("fixed") && live().dataset.at) {
      const fixed = new URL($("fixed").href);
      fixed.searchParams.set("until", live().dataset.at);
      $("fixed").href = fixed.href;
    }
    tell();
  };
  const lose = (why) => {
    lostAt ??= new Date();
    const since = `${lostAt.toISOString().slice(11, 19)} UTC`;
    $("lost").textContent = `${why} since ${since}. What is shown is of before; this page goes on by itself.`;
    $("lost").hidden = false;
    tell();
  };
  const ago = (seconds) => {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  };
  const tell = () => {
    const clockwork = $("clockwork");
    if (!clockwork || !live()) return;
    const kind = mode();
    clockwork.hidden = kind === "never";
    $("pause").hidden = kind !== "auto";
    const old = ageThen + (performance.now() - shownAt) / 1000;
    const loading = !live().dataset.age;
    $("updated").textContent = loading ? "loading" : `${kind === "asked" ? "read" : "updated"} ${ago(old)} ago`;
    $("pause").textContent = paused ? "go on" : "pause";
    $("pause").setAttribute("aria-pressed", String(paused));
    clockwork.classList.toggle("paused", paused);
  };
  const pause = () => {
    if (mode() !== "auto") return;
    paused = !paused;
    store.set("paused", paused ? "yes" : null);
    tell();
    if (paused) schedule();
    else ask();
  };

  const ofLive = (event) => event.detail?.ctx?.sourceElement?.id === "live";
  document.addEventListener("htmx:after:request", (event) => {
    const { ctx } = event.detail;
    if (ctx.hx?.redirect) return; // to the login
    const wrong = ctx.response.status >= 400;
    if (!ofLive(event)) {
      if (wrong) event.preventDefault();
      return;
    }
    if (!wrong && ctx.text.includes('id="live"')) return;
    if (wrong && !live().dataset.age) { // there is nothing to keep: show what is the matter
      event.preventDefault();
      location.reload();
      return;
    }
    event.preventDefault(); // keep what is there
    const said = new DOMParser().parseFromString(ctx.text, "text/html").querySelector("main p")?.textContent;
    lose(said ? `The aggregator answers "${said.replace(/\.$/, "")}"` : `The aggregator answers ${ctx.response.status}`);
  });
  document.addEventListener("htmx:error", (event) => {
    if (ofLive(event)) lose("No answer from the aggregator");
  });
  document.addEventListener("htmx:after:swap", (event) => {
    if (ofLive(event)) came();
  });
  document.addEventListener("htmx:finally:request", (event) => {
    if (!ofLive(event)) return;
    asking = false;
    schedule();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (goesOn() || lostAt !== null) ask();
  });
  window.addEventListener("online", () => { if (lostAt !== null) ask(); });

  // What can not be had at present may be had soon.
  if (document.querySelector("[data-again]")) setTimeout(() => location.reload(), EVERY);

  // Filters apply when a choice is made with the mouse; by keys one passes many on the way to the one that is meant.
  // What is empty stays out of the address.
  for (const form of document.querySelectorAll("form.filters")) {
    form.addEventListener("submit", () => {
      for (const field of form.elements) field.disabled = field.name !== "" && field.value === "";
      setTimeout(() => { for (const field of form.elements) field.disabled = false; });
    });
    let pointed = false;
    form.addEventListener("pointerdown", () => { pointed = true; });
    form.addEventListener("keydown", () => { pointed = false; });
    form.addEventListener("change", (event) => {
      if (pointed && event.target.matches("[data-submit]")) form.requestSubmit();
    });
  }

  // Commands are copied with a click.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "not allowed";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });

  // On a phone the pages are scrolled sideways.
  document.querySelector(".bar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

  // Keys.
  const rows = () => [...document.querySelectorAll("#live .row-link")];
  const toRow = (step) => {
    const all = rows();
    const here = all.indexOf(document.activeElement);
    all[here < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + step, 0), all.length - 1)]?.focus();
  };
  const KEYS = {
    "/": () => document.querySelector("[data-filter]")?.focus(),
    "?": () => $("keys").showModal(),
    j: () => toRow(1),
    k: () => toRow(-1),
    p: pause,
    r: ask,
    t: nextTheme,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || store.get("keys") === "off") return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const page = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (page) page.click();
    else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return;
    event.preventDefault();
  });

  $("theme").hidden = $("help").hidden = false;
  $("theme").addEventListener("click", nextTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-on").checked = store.get("keys") !== "off";
  $("keys-on").addEventListener("change", (event) => store.set("keys", event.target.checked ? null : "off"));
  $("pause")?.addEventListener("click", pause);
  $("again")?.addEventListener("click", ask);
  showTheme();
  localTimes(document);
  if (live()) {
    came();
    setInterval(tell, 1000);
    schedule();
  }
})();
