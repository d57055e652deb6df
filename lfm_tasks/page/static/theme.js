// Light or dark as Airflow's UI has it: it keeps the choice in localStorage under "theme"; "system" and nothing mean the browser's.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

function chosen() {
  const wanted = localStorage.getItem("theme");
  return wanted === "light" || wanted === "dark" ? wanted : dark.matches ? "dark" : "light";
}

function apply() {
  document.documentElement.dataset.theme = chosen();
  for (const listener of listeners) listener();
}

/** Calls `listener` now and whenever the theme changes. */
export function onTheme(listener) {
  listeners.push(listener);
  listener();
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

dark.addEventListener("change", apply);
window.addEventListener("storage", (event) => event.key === "theme" && apply());
apply();
