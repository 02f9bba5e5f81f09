// Follows the fleet, shows how old things are, and makes the keyboard work. Without it the page is whole, and as old as its last load.
"use strict";
(() => {
  const body = document.body;
  const live = document.getElementById("live");
  const help = document.getElementById("help");
  const filter = document.getElementById("filter");
  const parts = () => document.getElementById("parts");
  body.classList.add("script");

  // ---- Time, by the gateway's clock: this machine's may be wrong.
  const rendered = Number(body.dataset.now);
  let ahead = Date.now() - rendered;
  const now = () => Date.now() - ahead;

  const length = (seconds) => {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s}s`;
    if (s < 3600) return `${Math.floor(s / 60)}m`;
    if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
    return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
  };
  const age = (root) => {
    for (const time of root.querySelectorAll("time[data-at]")) {
      const text = length((now() - Number(time.dataset.at)) / 1000) + ("ago" in time.dataset ? " ago" : "");
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // ---- What is shown may be old: the connection, the bus, or both are silent.
  let told = Date.now();
  let heard = null;
  let bus = "speaks";
  let connected = false;
  const state = () => {
    const silent = (Date.now() - told) / 1000;
    let text = "live";
    let kind = "fresh";
    if (!body.dataset.live) {
      [text, kind] = ["", ""];
    } else if (silent > 3.5) {
      [text, kind] = [`no connection to the gateway, data ${length(silent)} old`, "gone"];
    } else if (bus === "away") {
      [text, kind] = [heard === null ? "no bus" : `no bus, data ${length((now() - heard) / 1000)} old`, "gone"];
    } else if (bus === "silent") {
      [text, kind] = [`bus silent for ${length((now() - heard) / 1000)}`, "late"];
    } else if (!connected) {
      [text, kind] = ["connecting", ""];
    }
    if (live.textContent !== text) live.textContent = text;
    live.className = `live ${kind}`;
    body.classList.toggle("stale", kind === "gone" || kind === "late");
  };
  setInterval(() => { age(document); state(); }, 1000);

  // ---- Changes arrive as elements; the focus, and what was opened, stay.
  const element = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };
  const keeping = (change) => {
    const opened = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
    const focused = document.activeElement;
    const owner = focused?.closest("#parts [id]");
    const place = owner && [...owner.querySelectorAll("a, button, summary")].indexOf(focused);
    change();
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (owner && !document.contains(focused)) {
      const there = document.getElementById(owner.id);
      there?.querySelectorAll("a, button, summary")[place]?.focus({ preventScroll: true });
    }
  };
  const replace = (changes) => keeping(() => {
    for (const [id, html] of changes) {
      const fresh = element(html);
      age(fresh);
      document.getElementById(id)?.replaceWith(fresh);
    }
  });
  const replaceAll = (html) => keeping(() => {
    const fresh = element(html);
    age(fresh);
    parts().replaceChildren(fresh);
  });

  let source = null;
  const follow = () => {
    source?.close();
    source = null;
    connected = false;
    // A browser has few connections for one site: tabs that nobody sees hold none.
    if (!body.dataset.live || document.hidden) return;
    source = new EventSource(`/live?at=${encodeURIComponent(body.dataset.live)}&version=${encodeURIComponent(body.dataset.version)}`);
    source.addEventListener("parts", (event) => replace(JSON.parse(event.data)));
    source.addEventListener("all", (event) => replaceAll(JSON.parse(event.data)));
    source.addEventListener("tick", (event) => {
      const tick = JSON.parse(event.data);
      ahead = Date.now() - tick.now;
      [told, heard, bus, connected] = [Date.now(), tick.heard, tick.bus, true];
      state();
    });
    // What it shows from now on is no longer that version.
    source.addEventListener("tick", () => { body.dataset.version = ""; }, { once: true });
    const mine = source;
    // Not left to the browser, which would ask for what changed since the version of the first connection.
    source.onerror = () => {
      mine.close();
      connected = false;
      setTimeout(() => { if (source === mine) follow(); }, 2000);
    };
  };
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });

  // ---- Filters: the same URL that the form would lead to, without leaving the page.
  let asked = 0;
  const load = async (url) => {
    const mine = ++asked;
    let text;
    try {
      const answer = await fetch(url, { headers: { accept: "text/html" } });
      text = await answer.text();
    } catch {
      return;
    }
    if (mine !== asked) return;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const them = fresh.getElementById("parts");
    if (!them) return;
    age(them);
    parts().replaceWith(them);
    for (const name of ["live", "version", "now"]) body.dataset[name] = fresh.body.dataset[name];
    history.replaceState(null, "", url);
    follow();
  };
  if (filter) {
    const url = () => {
      const given = [...new FormData(filter)].filter(([, value]) => value !== "");
      const query = new URLSearchParams(given.filter(([name, value]) => !(name === "sort" && value === "cluster"))).toString();
      return filter.getAttribute("action") + (query ? `?${query}` : "");
    };
    let pause = 0;
    filter.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(() => load(url()), 180); });
    filter.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(pause); load(url()); });
  }

  // ---- Copying a command.
  const copy = async (button) => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      // Only a page of this machine or over TLS may write to the clipboard: the person does.
      const range = document.createRange();
      range.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  // ---- Keys.
  const places = { n: "/", s: "/snapshots", d: "/seeds", e: "/events" };
  let going = 0;
  const step = (by) => {
    const rows = [...document.querySelectorAll("#parts .item .row")].filter((row) => row.offsetParent);
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.closest(".item").contains(document.activeElement));
    const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };
  document.getElementById("keys").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (typing) {
      if (event.key === "Escape") {
        // A field for searching would empty itself.
        event.preventDefault();
        event.target.blur();
      }
      return;
    }
    const is = Date.now() - going < 1500 && places[event.key];
    going = 0;
    if (is) location.href = is;
    else if (event.key === "g") going = Date.now();
    else if (event.key === "/") document.getElementById("q")?.focus();
    else if (event.key === "?") help.showModal();
    else if (event.key === "u") history.back();
    else if (event.key === "j" || event.key === "ArrowDown") step(1);
    else if (event.key === "k" || event.key === "ArrowUp") step(-1);
    else if (event.key === "c") {
      const button = document.activeElement.closest(".item")?.querySelector("[data-copy]");
      if (button) copy(button);
      return;
    } else return;
    event.preventDefault();
  });

  age(document);
  state();
  follow();
})();
