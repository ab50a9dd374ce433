// Models run on WebGPU; with `--backend webgpu` the server gives this file out as backend.js.

import * as ort from "./ort/ort.webgpu.min.mjs";

export { ort };
export const PROVIDER = {
  executionProviders: ["webgpu"],
  extra: { session: { disable_cpu_ep_fallback: "1" } }, // a model runs there as a whole, or not
};

/** Name the adapter; empty where the browser has none. */
export async function findGpu() {
  const info = (await navigator.gpu?.requestAdapter())?.info;
  if (!info) return "";
  const names = [info.vendor, info.architecture, info.device, info.description].filter(Boolean);
  return (names.join(" ") || "unknown").slice(0, 400);
}

/** Say whether the GPU is gone, so that no model can be loaded. */
export function isLost() {
  const lost = ort.env.webgpu.device?.lost.then(() => true) ?? new Promise(() => {});
  return Promise.race([lost, findGpu().then((name) => !name)]);
}
