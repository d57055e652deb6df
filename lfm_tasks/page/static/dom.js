// Elements made from plain values. Text only ever becomes a text node, so nothing that a record says is read as markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in PROPERTIES) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PROPERTIES = { value: 1, checked: 1, disabled: 1, open: 1 };

/** A link out of the page; null unless it is http(s) or relative to this server. */
export function link(href, ...children) {
  let address;
  try {
    address = new URL(href, document.baseURI);
  } catch {
    return null;
  }
  if (!["http:", "https:"].includes(address.protocol)) return null;
  const outside = address.origin !== location.origin;
  return h("a", { href: address.href, target: "_blank", rel: "noopener", class: "out", onclick: follow }, ...children, outside ? " ↗" : "");
}

// Airflow opens the page in a frame whose sandbox allows neither popups nor navigation of the whole window, so the click
// is handed to a link of the surrounding page, which has the same origin.
function follow(event) {
  if (window.parent === window) return;
  event.preventDefault();
  const { href } = event.currentTarget;
  const outer = window.parent.document.createElement("a");
  Object.assign(outer, { href, target: "_blank", rel: "noopener" });
  outer.click();
}

export function copyButton(text) {
  const button = h("button", { type: "button", class: "quiet", title: `Copy ${text}`, onclick: copy }, "copy");
  async function copy() {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1200);
  }
  return navigator.clipboard ? button : null;
}

/** A table of two columns; rows whose value is empty are left out. */
export function facts(rows) {
  const given = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("table", { class: "facts" }, given.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, show(value)))));
}

export function show(value) {
  if (value instanceof Node) return value;
  if (typeof value === "number") return number(value);
  if (typeof value === "object" && value !== null) return JSON.stringify(value);
  return String(value);
}

export function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 0.001 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

export function bytes(value) {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  return `${number(Number((value / 1024 ** power).toPrecision(3)))} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export function seconds(value) {
  if (value < 120) return `${number(Number(value.toPrecision(3)))} s`;
  return value < 7200 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s` : `${(value / 3600).toFixed(1)} h`;
}

export function time(stamp) {
  const shown = new Date(stamp).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return h("time", { datetime: stamp, title: stamp }, shown);
}
