// Measures what the computer asks for, round after round, while the tab is in front and the device cool.

import { findGpu } from "./backend.js";
import { get, open, pause, post, Refused, threadsNote } from "./session.js";

const byId = (id) => document.getElementById(id);
const tell = (text) => {
  if (byId("status").textContent !== text) byId("status").textContent = text;
};
const offline = () => tell("The computer does not answer; trying again …");

const LOADING_TRIES = 5;

let paused = false;
let hides = 0;
document.addEventListener("visibilitychange", () => {
  hides += document.hidden;
  keepAwake();
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").textContent = paused ? "Continue" : "Pause";
});

/** Keep the screen on, where the browser allows it. */
async function keepAwake() {
  if (!document.hidden) await navigator.wakeLock?.request("screen").catch(() => {});
}

/** Wait until the tab is in front and nobody has paused. */
async function untilReady() {
  while (paused || document.hidden) {
    tell(paused ? "Paused." : "Paused: the tab is not in front.");
    await pause(200);
  }
}

async function rest(work) {
  for (let left = work.rest_s; left > 0; left--) {
    tell(`Paused: the device is ${percent(work.slowdown)} slower than usual, probably hot. On in ${left} s.`);
    await pause(1000);
    if (document.hidden) return;
  }
}

const percent = (factor) => `${Math.round(100 * (factor - 1))} %`;

class Bench {
  constructor(threads) {
    this.worker = new Worker("profile-worker.js", { type: "module" });
    this.worker.postMessage({ threads });
  }

  /** Return times and failures of one round. */
  round(work) {
    return new Promise((resolve, reject) => {
      this.worker.onerror = (event) => reject(new Error(event.message || "the worker ended"));
      this.worker.onmessage = ({ data }) => {
        if (data.loading) tell(`Loading model ${data.loading} of ${data.of} …`);
        else if (data.error) reject(new Error(data.error));
        else resolve(data);
      };
      this.worker.postMessage({ keys: [...work.models, ...work.references] });
    });
  }

  end() {
    this.worker.terminate();
  }
}

function minutes(ms) {
  const left = Math.max(1, Math.ceil(ms / 60000));
  return left === 1 ? "about a minute" : `about ${left} minutes`;
}

function show(work, began) {
  byId("progress").value = work.share;
  byId("models").textContent = `${work.done} of ${work.total}`;
  byId("rounds").textContent = work.number;
  const slower = work.slowdown;
  byId("speed").textContent = slower > 1.05 ? `${percent(slower)} slower than usual`
    : slower < 0.95 ? `${percent(2 - slower)} faster than usual` : "as usual";
  const gained = work.share - began.share;
  if (gained > 0.02) {
    byId("left").textContent = minutes((performance.now() - began.ms) * (1 - work.share) / gained);
  }
}

/** Post a round; where others overtook it, ask what is next. */
async function next(work, found) {
  try {
    return await post("rounds", { number: work.number, ...found }, offline);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 409) throw error;
    return get("work", offline);
  }
}

async function measure(threads) {
  let work = await get("work", offline);
  const began = { share: work.share, ms: performance.now() };
  let bench = new Bench(threads);
  let tries = 0;
  byId("pause").hidden = false;
  while (!work.ended) {
    show(work, began);
    await rest(work);
    await untilReady();
    tell("Measuring …");
    const seen = hides;
    let found;
    try {
      found = await bench.round(work);
      tries = 0;
    } catch (error) {
      if (++tries === LOADING_TRIES) throw error;
      tell(`${error.message}; trying again …`);
      bench.end();
      await pause(3000);
      bench = new Bench(threads);
      continue;
    }
    if (hides !== seen || document.hidden) continue; // a hidden tab is slow: the round does not count
    work = await next(work, found);
    if (Object.keys(found.failed).length) { // it may have left the runtime in disorder
      bench.end();
      bench = new Bench(threads);
    }
  }
  bench.end();
  show(work, began);
  byId("pause").hidden = true;
  byId("left").textContent = "–";
  tell(work.ended);
}

try {
  const opened = await open(offline, await findGpu());
  byId("title").textContent = opened.title;
  byId("runtime").textContent = `${opened.runtime}, ${opened.threads} ${opened.threads === 1 ? "thread" : "threads"}`;
  byId("threads").textContent = threadsNote(opened);
  byId("threads").hidden = !byId("threads").textContent;
  keepAwake();
  await measure(opened.threads);
} catch (error) {
  tell(`Stopped: ${error.message}`);
  byId("status").classList.add("bad");
  byId("pause").hidden = true;
}
