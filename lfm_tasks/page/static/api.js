// The page's own API. Every answer may carry "notices": what could not be asked just now.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function get(path, query = {}) {
  const address = new URL(`api/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined && value !== "") address.searchParams.set(name, value);
  let answer;
  try {
    answer = await fetch(address, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  } catch {
    throw new Refused(0, "The Airflow server did not answer. Try again when it is back.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new Refused(401, "Your session has ended. Log in to Airflow again, then reload this page.");
  if (!answer.ok) throw new Refused(answer.status, typeof body.detail === "string" ? body.detail : `The server answered ${answer.status}.`);
  return body;
}
