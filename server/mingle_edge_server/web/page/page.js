// Sends a picture to the server by the Open Inference Protocol and shows what it answers.
const at = (id) => document.getElementById(id);
const text = (id, value) => { at(id).textContent = value; };
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const outputs = ["labels", "tasks", "probabilities", "route_tasks", "route_weights", "route_stage", "confidence", "posterior"];
let model = "";
let taskNames = [];
let sent = null; // the picture that is shown
let stream = null;
let pictureUrl = null;

async function json(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `the server answers with status ${response.status}`);
  return answer;
}

async function begin() {
  const [{ name }] = await json("v2/repository/index", { method: "POST" });
  model = `v2/models/${encodeURIComponent(name)}`;
  const { parameters } = await json(`${model}/config`);
  taskNames = JSON.parse(parameters.tasks.string_value);
  text("model", name);
  document.title = `${name}, mingle-edge`;
  const count = `${taskNames.length} ${taskNames.length === 1 ? "task" : "tasks"}`;
  text("about", `${count}, ${parameters.scope.string_value} scope, ${parameters.precision.string_value}`);
  at("config").href = `${model}/config`;
  if (parameters.scope.string_value === "folded") at("task").form.remove(); // one task, in the weights: nothing is found
  else for (const task of taskNames) at("task").add(new Option(task, task));
}

// The request: JSON, and behind it the file with its length in front, as the binary tensor data extension has it.
async function ask(file) {
  const task = at("task")?.value;
  const header = new TextEncoder().encode(JSON.stringify({
    inputs: [{ name: "image", datatype: "BYTES", shape: [1], parameters: { binary_data_size: 4 + file.size } }],
    outputs: outputs.map((name) => ({ name })),
    parameters: task ? { task } : {},
  }));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, file.size, true);
  const started = performance.now();
  const answer = await json(`${model}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(header.length) },
    body: new Blob([header, length, file]),
  });
  const spent = performance.now() - started;
  const { model_stats: [stats] } = await json(`${model}/stats`);
  show(answer, spent, stats.experts);
}

function show(answer, spent, experts) {
  const found = Object.fromEntries(answer.outputs.map((output) => [output.name, output.data]));
  const { decode_ms: decode, queue_ms: queue, run_ms: run } = answer.parameters;
  const experts_ran = found.route_tasks.filter((name) => name);
  const shares = experts_ran.map((name, i) => (experts_ran.length > 1 ? `${name} ${found.route_weights[i].toFixed(2)}` : name));
  text("answer", `${found.labels[0]} (${found.tasks[0]}), ${percent(found.probabilities[0])}`);
  bars("labels", found.labels.map((label, i) => [label, found.tasks[i], found.probabilities[i]]));
  text("route", shares.join(", ") || "none: no task claims it");
  const [confidence] = found.confidence;
  const settled = `confidence ${confidence?.toFixed(1)}, settled by ${found.route_stage[0]}`;
  text("confidence", confidence === null ? "no router was asked" : settled);
  text("latency", `${(decode + queue + run).toFixed(1)} ms`);
  text("phases", `decode ${decode.toFixed(1)}, wait ${queue.toFixed(1)}, run ${run.toFixed(1)}`);
  text("roundtrip", `${spent.toFixed(1)} ms`);
  const resident = `${size(experts.resident_bytes)} of ${size(experts.all_bytes)}`;
  text("resident", experts.all_bytes ? resident : "none, the task is in the weights");
  const { hits, misses, evictions } = experts;
  text("cache", `${counted(hits, "hit")}, ${counted(misses, "miss")}, ${counted(evictions, "eviction")}`);
  at("posterior-part").hidden = !found.posterior.length;
  const order = found.posterior.map((value, i) => [taskNames[i], "", value]).sort((a, b) => b[2] - a[2]);
  bars("posterior", order);
  at("result").hidden = false;
}

function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

function bars(id, rows) {
  at(id).replaceChildren(...rows.map(([name, detail, value]) => {
    const row = document.createElement("li");
    const label = document.createElement("span");
    label.append(name);
    if (detail) label.append(Object.assign(document.createElement("small"), { textContent: detail }));
    const meter = document.createElement("meter");
    meter.value = value;
    meter.ariaLabel = `${name} ${percent(value)}`;
    row.append(label, percent(value), meter);
    return row;
  }));
}

async function tell(work) {
  try {
    await work();
    text("problem", "");
  } catch (error) {
    at("result").hidden = true;
    text("problem", error instanceof TypeError ? "The server does not answer." : error.message);
  }
}

async function sendFile(file) {
  if (!file) return;
  stopCamera();
  sent = file;
  if (pictureUrl) URL.revokeObjectURL(pictureUrl);
  pictureUrl = URL.createObjectURL(file);
  at("picture").src = pictureUrl;
  at("picture").hidden = false;
  at("result").setAttribute("aria-busy", "true");
  await tell(() => ask(file));
  at("result").removeAttribute("aria-busy");
}

async function startCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives the camera only to pages over https, or from this machine (localhost).");
  }
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = at("video");
  video.srcObject = stream;
  await video.play();
  video.hidden = false;
  at("picture").hidden = true;
  sent = null;
  text("camera", "Stop the camera");
  at("result").querySelector("#answer").ariaLive = "off"; // several answers a second are too many to read out
  watch(stream);
}

// One frame at a time: the next one is taken when the last one is answered.
async function watch(running) {
  const video = at("video");
  const canvas = document.createElement("canvas");
  while (stream === running) {
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const frame = await new Promise((done) => { canvas.toBlob(done, "image/jpeg", 0.9); });
    await tell(() => ask(frame));
    await new Promise((done) => { setTimeout(done, at("problem").textContent ? 1000 : 0); });
  }
}

function stopCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  at("video").hidden = true;
  text("camera", "Use the camera");
  at("answer").ariaLive = "polite";
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => { sendFile(at("file").files[0]); at("file").value = ""; });
at("picture").addEventListener("error", () => { at("picture").hidden = true; });
at("task").addEventListener("change", () => sendFile(sent));
at("camera").addEventListener("click", () => (stream ? stopCamera() : tell(startCamera)));
document.addEventListener("paste", ({ clipboardData: { files } }) => {
  sendFile([...files].find((file) => file.type.startsWith("image/")));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") sendFile(event.dataTransfer.files[0]);
  });
}
tell(begin);
