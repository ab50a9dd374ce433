// Classifies images with every network of a run.

import * as ort from "./ort/ort.wasm.min.mjs";
import { start } from "./bench.js";

const networks = [];

/** x = (pixels / 255 - mean) / std: RGBA of a square -> [1, 3, side, side]. */
function prepare(rgba, model) {
  const area = model.image_size ** 2;
  const values = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const scale = 1 / (255 * model.std[channel]);
    const shift = model.mean[channel] / model.std[channel];
    for (let n = 0; n < area; n++) values[channel * area + n] = rgba[4 * n + channel] * scale - shift;
  }
  return new ort.Tensor("float32", values, [1, 3, model.image_size, model.image_size]);
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map((value) => value / sum);
}

async function load({ threads, models }) {
  start(threads);
  for (const [number, model] of models.entries()) {
    postMessage({ loading: number + 1, of: models.length });
    const response = await fetch(`models/${model.sha256}`);
    if (!response.ok) throw new Error(`the computer refuses a model: ${await response.text()}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    networks.push({ model, session, input: session.inputNames[0], output: session.outputNames[0] });
  }
  return { loaded: true };
}

/** Classify one image with every network, several times in turn; the first time does not count. */
async function classify({ images, times }) {
  const results = {};
  for (let time = 0; time < times; time++) {
    for (const { model, session, input, output } of networks) {
      const begin = performance.now();
      const found = await session.run({ [input]: prepare(images[model.image_size], model) });
      const ms = performance.now() - begin;
      const result = results[model.sha256] ??= { ms: [], top: [] };
      if (time > 0) {
        result.ms.push(ms);
      } else {
        const probabilities = softmax(found[output].data);
        result.top = model.labels.map((label, n) => [label, probabilities[n]])
          .sort((left, right) => right[1] - left[1]).slice(0, 3);
      }
    }
  }
  return { results };
}

onmessage = async ({ data }) => {
  try {
    postMessage(await (data.models ? load(data) : classify(data)));
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
