// Renews the parts of a page that are marked `data-live`: asks for the same address again, and shows what has changed.
"use strict";
(() => {
  const parts = () => [...document.querySelectorAll("[data-live]")];
  const stale = document.getElementById("stale");
  const every = 2500 + Math.random() * 1000;
  let tag = null;
  let last = new Date();
  if (!parts().length || !stale) return;

  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    document.title = fresh.title;
    for (const part of parts()) {
      const other = fresh.getElementById(part.id);
      if (!other || part.contains(document.activeElement) && part !== document.activeElement) continue;
      other.querySelectorAll("details").forEach((one, at) => {
        const open = part.querySelectorAll("details")[at];
        one.open = Boolean(open && open.open);
      });
      if (other.className !== part.className) part.className = other.className;
      if (other.innerHTML !== part.innerHTML) part.innerHTML = other.innerHTML;
    }
  };

  const say = (why) => {
    const text = `Out of date since ${last.toLocaleTimeString()}: ${why}`;
    if (stale.textContent !== text) stale.textContent = text;
    stale.hidden = false;
  };

  const renew = async () => {
    if (document.hidden) return;
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const answer = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (answer.status === 304) { /* nothing has changed */ }
      else if (answer.ok) { tag = answer.headers.get("ETag"); show(await answer.text()); }
      else { say(`the page answers ${answer.status}.`); return; }
      last = new Date();
      stale.hidden = true;
    } catch {
      say("the page's server does not answer.");
    }
  };

  const again = async () => { await renew(); setTimeout(again, every); };
  setTimeout(again, every);
  document.addEventListener("visibilitychange", renew);
})();
