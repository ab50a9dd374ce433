// Models run in WebAssembly; the server gives this file out as backend.js.

export * as ort from "./ort/ort.wasm.min.mjs";

export const PROVIDER = { executionProviders: ["wasm"] };
export const findGpu = async () => "";
export const isLost = async () => false;
