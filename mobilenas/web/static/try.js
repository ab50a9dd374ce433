// Shows what the networks of a run make of chosen files or of the camera, and how fast they are.

import { get, open, pause, post, threadsNote } from "./session.js";

const TIMES_OF_FILE = 21; // the first does not count
const TIMES_OF_FRAME = 2;
const KEPT = 1000;
const SIGN_MS = 60_000;

const byId = (id) => document.getElementById(id);
const tell = (text) => {
  if (byId("status").textContent !== text) byId("status").textContent = text;
};
const offline = () => tell("The computer does not answer; trying again …");

let models = [];
let times = {}; // milliseconds by checksum
let source = 0; // a new one stops what runs
const worker = new Worker("try-worker.js", { type: "module" });

let last = Promise.resolve();

/** Ask the worker, once it has answered what it was asked before. */
function ask(message) {
  const answer = last.then(() => request(message));
  last = answer.catch(() => {});
  return answer;
}

function request(message) {
  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the worker ended"));
    worker.onmessage = ({ data }) => {
      if (data.loading) tell(`Loading network ${data.loading} of ${data.of} …`);
      else if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    worker.postMessage(message);
  });
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function addCard(model) {
  const card = element("section", "", "network");
  card.append(element("h2", model.name));
  const top = element("ol");
  const list = element("dl");
  const rows = {};
  for (const [key, title] of [["median", "median"], ["p90", "90 % below"], ["rate", "images/s"]]) {
    rows[key] = element("dd", "–");
    list.append(element("dt", title), rows[key]);
  }
  list.append(element("dt", "test top-1"), element("dd", `${model.top1.toFixed(1)} %`));
  list.append(element("dt", "file"), element("dd", `${Math.round(model.size_bytes / 1000)} kB`));
  card.append(top, list);
  byId("networks").append(card);
  return { top, rows };
}

const cards = {};

function percentile(sorted, share) {
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function show(results) {
  for (const [key, { ms, top }] of Object.entries(results)) {
    times[key] = [...(times[key] ?? []), ...ms].slice(-KEPT);
    const { rows, top: list } = cards[key];
    list.replaceChildren(...top.map(([label, share]) => element("li", `${label}: ${(100 * share).toFixed(1)} %`)));
    const sorted = [...times[key]].sort((left, right) => left - right);
    const mean = sorted.reduce((sum, each) => sum + each, 0) / sorted.length;
    rows.median.textContent = `${percentile(sorted, 0.5).toPrecision(3)} ms`;
    rows.p90.textContent = `${percentile(sorted, 0.9).toPrecision(3)} ms`;
    rows.rate.textContent = 1000 / mean < 100 ? (1000 / mean).toPrecision(3) : Math.round(1000 / mean);
  }
  byId("keep").disabled = false;
}

/** Pixels of the centre square at every side that the networks take. */
function squares(picture, width, height) {
  const across = Math.min(width, height);
  const images = {};
  for (const side of new Set(models.map((model) => model.image_size))) {
    const canvas = byId("view");
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // behind what is transparent
    context.fillRect(0, 0, side, side);
    context.drawImage(picture, (width - across) / 2, (height - across) / 2, across, across, 0, 0, side, side);
    images[side] = context.getImageData(0, 0, side, side).data;
  }
  byId("view").hidden = false;
  return images;
}

function begin() {
  times = {};
  byId("keep").disabled = true;
  return ++source;
}

async function classifyFiles(files) {
  const mine = begin();
  stopCamera();
  for (const [number, file] of [...files].entries()) {
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      tell(`${file.name} is not an image that this browser reads.`);
      continue;
    }
    const { results } = await ask({ images: squares(picture, picture.width, picture.height), times: TIMES_OF_FILE });
    if (mine !== source) return;
    show(results);
    byId("shown").textContent = `${file.name} (${number + 1} of ${files.length})`;
    tell("Classified.");
    await pause(0);
  }
}

function stopCamera() {
  const video = byId("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  byId("camera").textContent = "Use the camera";
}

async function runCamera() {
  const video = byId("video");
  if (video.srcObject) {
    source++;
    stopCamera();
    tell("The camera is off.");
    return;
  }
  const mine = begin();
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  await video.play();
  byId("camera").textContent = "Stop the camera";
  byId("shown").textContent = "The camera";
  tell("Classifying what the camera sees.");
  while (mine === source) {
    if (document.hidden || !video.videoWidth) {
      await pause(200);
      continue;
    }
    const { results } = await ask({ images: squares(video, video.videoWidth, video.videoHeight), times: TIMES_OF_FRAME });
    if (mine === source) show(results);
    await new Promise(requestAnimationFrame);
  }
}

async function keep() {
  const ns = {};
  for (const [key, ms] of Object.entries(times)) ns[key] = ms.map((each) => Math.max(1, Math.round(1e6 * each)));
  tell((await post("measurements", { ns }, offline)).message);
}

const caught = (action) => async (...given) => {
  try {
    await action(...given);
  } catch (error) {
    tell(`Stopped: ${error.message}`);
  }
};

caught(async () => {
  const opened = await open(offline);
  byId("title").textContent = opened.title;
  byId("threads").textContent = threadsNote(opened);
  byId("threads").hidden = !byId("threads").textContent;
  const trial = await get("trial", offline);
  models = trial.models;
  byId("notes").replaceChildren(...trial.notes.map((note) => element("p", note)));
  for (const model of models) cards[model.sha256] = addCard(model);
  await ask({ threads: opened.threads, models });
  byId("camera").disabled = !navigator.mediaDevices;
  byId("no-camera").hidden = Boolean(navigator.mediaDevices);
  byId("files").addEventListener("change", caught((event) => classifyFiles(event.target.files)));
  byId("camera").addEventListener("click", caught(runCamera));
  byId("keep").addEventListener("click", caught(keep));
  byId("choose").hidden = false;
  // the computer stops once nobody asks for anything
  setInterval(() => document.hidden || fetch("trial").catch(() => {}), SIGN_MS);
  tell(`Choose images; ${opened.runtime}, ${opened.threads} ${opened.threads === 1 ? "thread" : "threads"}.`);
})();
