// The page: files and camera in, answers out. Everything is computed in worker.mjs.
//
// Two settings in the address: ?bundle=<address of the bundle's folder>, ../bundle/ unless given; ?budget=64MB of experts.

import { byteSize } from "../javascript/byte_size.mjs";
import { answerCard, element, errorCard } from "./answer_card.mjs";
import { ModelClient } from "./model_client.mjs";

const TOP = 3,
  MOST_ANSWERS = 100; // labels of an image; images on the page
const $ = (id) => document.getElementById(id);
const settings = new URLSearchParams(location.search);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const client = new ModelClient(({ loaded, total }) => {
  $("progress").value = loaded / total;
});
let camera = null; // { stream, stopped, stop }

try {
  const base = new URL(settings.get("bundle") ?? "../bundle/", location.href).href;
  const expertBudget = settings.has("budget") ? byteSize(settings.get("budget")) : null;
  const began = performance.now();
  const model = await client.open({ base, expertBudget });
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const labels = model.tasks.reduce((sum, task) => sum + task.labels, 0);
  const tasks = `${model.tasks.length} task${model.tasks.length > 1 ? "s" : ""}`;
  $("model").textContent = `${tasks} with ${labels} labels, ${model.precision}, ready after ${seconds} s`;
  for (const { name } of model.tasks) $("task").append(element("option", { value: name }, name));
  for (const id of ["controls", "device"]) $(id).hidden = false;
  await showStatus();
} catch (error) {
  $("model").textContent = "There is no model.";
  $("error").textContent = error.message;
  $("error").hidden = false;
} finally {
  $("progress").hidden = true;
}
navigator.serviceWorker?.register("service_worker.js").catch(() => {}); // without it the page needs the network next time

$("files").addEventListener("change", ({ target }) => {
  classifyFiles([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
$("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  classifyFiles([...event.dataTransfer.files]);
});
$("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
$("keep").addEventListener("click", () => busy($("keep"), () => client.keepAll()));
$("forget").addEventListener("click", () =>
  busy($("forget"), async () => {
    await client.forget();
    for (const name of await caches.keys()) await caches.delete(name);
    for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister();
  }),
);

async function classifyFiles(files) {
  $("answers").hidden = false;
  for (const file of files) {
    let card;
    try {
      const answer = await client.classify(file, { task: $("task").value || null, top: TOP });
      card = answerCard(file.name, URL.createObjectURL(file), answer);
    } catch (error) {
      card = error.name === "ImageError" ? errorCard(file.name, error.message) : failed(file.name, error);
    }
    $("list").prepend(element("li", {}, [card]));
    while ($("list").children.length > MOST_ANSWERS) drop($("list").lastChild);
  }
  await showStatus();
}

function failed(name, { message }) {
  return element("article", { className: "card plain" }, [
    element("h3", {}, name),
    element("p", { className: "bad" }, message),
  ]);
}

function drop(item) {
  const picture = item.querySelector("img");
  if (picture) URL.revokeObjectURL(picture.src);
  item.remove();
}

// One frame after the other, each the newest: what the camera takes meanwhile is never looked at.
async function startCamera() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    $("live").replaceChildren(failed("Camera", { message: `The camera cannot be used: ${error.message}` }));
    return;
  }
  camera = { stream };
  camera.stopped = new Promise((resolve) => {
    camera.stop = resolve;
  });
  showCamera();
  await $("video").play();
  for (let last = performance.now(); camera;) {
    try {
      await Promise.race([nextFrame(), camera.stopped]);
      const answer = await client.classify(await createImageBitmap($("video")), { task: $("task").value || null, top: TOP });
      const now = performance.now();
      $("live").replaceChildren(answerCard(`Camera, ${(1000 / (now - last)).toFixed(1)} frames a second`, null, answer));
      last = now;
    } catch (error) {
      if (!camera) break; // the picture went with the camera
      stopCamera();
      $("live").replaceChildren(failed("Camera", error));
    }
  }
  await showStatus();
}

function nextFrame() {
  const video = $("video");
  return new Promise((resolve) => {
    video.requestVideoFrameCallback ? video.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve);
  });
}

function stopCamera() {
  for (const track of camera.stream.getTracks()) track.stop();
  camera.stop();
  camera = null;
  showCamera();
}

function showCamera() {
  $("video").srcObject = camera?.stream ?? null;
  $("video").hidden = !camera;
  $("camera").textContent = camera ? "Stop the camera" : "Start the camera";
  $("camera").setAttribute("aria-pressed", String(Boolean(camera)));
}

async function busy(button, work) {
  button.disabled = true;
  try {
    await work();
    await showStatus();
  } catch (error) {
    $("notes").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

async function showStatus() {
  const { experts, heapBytes, notes, expertsKept, expertsTotal, missingBytes } = await client.status();
  const figures = { "Memory of the runtime, with the model": megabytes(heapBytes) };
  if (experts) {
    const limit = experts.budget == null ? "" : `, of at most ${megabytes(experts.budget)}`;
    figures["Experts in memory"] = `${experts.resident.join(", ") || "none"} (${megabytes(experts.residentBytes)}${limit})`;
    figures["Experts asked for"] =
      `read ${experts.misses} times, already in memory ${experts.hits} times; given up ${experts.evictions} times`;
    figures["Experts stored for use offline"] =
      `${expertsKept} of ${expertsTotal}${missingBytes ? `; the others are ${megabytes(missingBytes)}` : ""}`;
  }
  $("figures").replaceChildren(
    ...Object.entries(figures).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
  $("keep").hidden = !missingBytes;
  $("notes").textContent = notes.join(" ");
}
