// Loading and timing ONNX models with onnxruntime-web.

import { ort, PROVIDER } from "./backend.js";

const WARM_UP_RUNS = 5;
const WARM_UP_MS = 1000;
const SLICES = 5;
const MIN_SLICE_MS = 1;
const CLOCK_STEPS = 20;
const MAX_SPREAD = 1.15; // of the middle slice over the second fastest
const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int8: Int8Array };

/** A slice of a timing lasts twenty steps of this browser's clock, which some browsers make coarse. */
function sliceMs() {
  let step = Infinity;
  for (let n = 0; n < 3; n++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    step = Math.min(step, now - start);
  }
  return Math.max(MIN_SLICE_MS, CLOCK_STEPS * step);
}

const SLICE_MS = sliceMs();

export function start(threads) {
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "fatal";
}

function feedOf(session) {
  const feed = {};
  for (const input of session.inputMetadata) {
    const shape = input.shape.map((size) => (typeof size === "number" ? size : 1));
    const kind = ARRAYS[input.type];
    if (!kind) throw new Error(`input ${input.name} is of type ${input.type}`);
    const values = new kind(shape.reduce((product, size) => product * size, 1));
    for (let n = 0; n < values.length; n++) values[n] = 100 * Math.random();
    feed[input.name] = new ort.Tensor(input.type, values, shape);
  }
  return feed;
}

export class Job {
  static async load(bytes) {
    const session = await ort.InferenceSession.create(bytes, {
      ...PROVIDER,
      graphOptimizationLevel: "all",
    });
    const job = new Job(session, feedOf(session));
    await job.#warmUp();
    return job;
  }

  constructor(session, feed) {
    this.session = session;
    this.feed = feed;
    this.repeats = 1;
  }

  /** Run it a few times; the fastest run says how many a slice takes. */
  async #warmUp() {
    const stop = performance.now() + WARM_UP_MS;
    let fastest = Infinity;
    for (let n = 0; n < WARM_UP_RUNS && (n < 2 || performance.now() < stop); n++) {
      fastest = Math.min(fastest, await this.#run(1));
    }
    // faster than the clock: as many as are certain to last long enough
    while (fastest <= 0) {
      this.repeats *= 10;
      fastest = await this.#run(this.repeats) / this.repeats;
    }
    this.repeats = Math.max(1, Math.ceil(SLICE_MS / fastest));
  }

  async #run(repeats) {
    const start = performance.now();
    for (let n = 0; n < repeats; n++) await this.session.run(this.feed);
    return performance.now() - start;
  }

  /** Time one run; of some slices the second fastest counts, and other programs disturb the others. */
  async time() {
    await this.session.run(this.feed); // an untimed run: its weights are back in the caches
    const slices = [];
    for (let n = 0; n < SLICES; n++) slices.push(await this.#run(this.repeats) / this.repeats);
    slices.sort((left, right) => left - right);
    return { ms: slices[1], disturbed: slices[(SLICES - 1) / 2] > MAX_SPREAD * slices[1] };
  }

  release() {
    return this.session.release();
  }
}
