// The session with the computer that serves this page.

const RETRY_MS = 3000;

/** An answer that trying again does not change. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Ask the computer, and go on asking while it cannot be reached; `offline` is called meanwhile. */
async function ask(path, options, offline) {
  for (;;) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      offline();
      await pause(RETRY_MS);
      continue;
    }
    if (response.status === 429) {
      await pause(RETRY_MS);
      continue;
    }
    if (response.ok) return response;
    const text = await response.text();
    let message = text;
    try {
      message = JSON.parse(text).error;
    } catch { /* it is not one of the computer's own answers */ }
    throw new Refused(response.status, message);
  }
}

export async function get(path, offline = () => {}) {
  return (await ask(path, {}, offline)).json();
}

export async function post(path, body, offline = () => {}) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) }, offline)).json();
}

/** Say what this device is; the token in the address is used once and taken out of it. */
export async function open(offline, gpu = "") {
  const token = location.hash.slice(1);
  const hints = navigator.userAgentData;
  let model = "";
  let system = hints?.platform || navigator.platform || "";
  try {
    const more = await hints?.getHighEntropyValues(["model", "platformVersion"]);
    model = more?.model ?? "";
    system = [system, more?.platformVersion].filter(Boolean).join(" ");
  } catch { /* the browser does not say it */ }
  const opened = await post("session", {
    token,
    browser: navigator.userAgent.slice(0, 400),
    system: system.slice(0, 400),
    model: model.slice(0, 400),
    cores: Math.max(1, navigator.hardwareConcurrency || 1),
    isolated: self.crossOriginIsolated === true,
    gpu,
  }, offline);
  history.replaceState(null, "", location.pathname);
  return opened;
}

/** Say in words why there are fewer threads than requested; empty where there are not. */
export function threadsNote(opened) {
  if (opened.threads >= opened.threads_requested) return "";
  const why = self.crossOriginIsolated
    ? `it has ${navigator.hardwareConcurrency} cores`
    : "the browser has threads only for pages of HTTPS or of this device itself (localhost)";
  return `${opened.threads_requested} threads were asked for; this page uses ${opened.threads}: ${why}.`;
}
