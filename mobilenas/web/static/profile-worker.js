// Times the models of one round, in a fresh order; keeps those loaded that the next round may have.

import { isLost } from "./backend.js";
import { Job, start } from "./bench.js";

const jobs = new Map();

function shuffled(items) {
  const mixed = [...items];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

async function fetchModel(key) {
  const response = await fetch(`models/${key}`);
  if (!response.ok) throw new Error(`the computer refuses a model: ${await response.text()}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Load what the round needs and is not loaded; return the models that do not run. */
async function load(keys) {
  for (const [key, job] of jobs) {
    if (!keys.includes(key)) {
      jobs.delete(key);
      await job.release();
    }
  }
  const lacking = keys.filter((key) => !jobs.has(key));
  for (const [number, key] of lacking.entries()) {
    postMessage({ loading: number + 1, of: lacking.length });
    const bytes = await fetchModel(key);
    try {
      jobs.set(key, await Job.load(bytes));
    } catch (error) {
      if (await isLost()) throw error; // it is not the model
      return { [key]: `does not run in the browser: ${String(error?.message ?? error).slice(0, 300)}` };
    }
  }
  return {};
}

onmessage = async ({ data }) => {
  try {
    if (data.threads) {
      start(data.threads);
      return;
    }
    const failed = await load(data.keys);
    const ns = {};
    const disturbed = [];
    if (!Object.keys(failed).length) {
      for (const key of shuffled(data.keys)) {
        const timing = await jobs.get(key).time();
        ns[key] = Math.max(1, Math.round(1e6 * timing.ms));
        if (timing.disturbed) disturbed.push(key);
      }
    }
    postMessage({ ns, disturbed, failed });
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
