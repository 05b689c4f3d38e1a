// Runs a case with ONNX Runtime for JavaScript and prints what it computes, as JSON: `node measure.mjs CASE PROGRAM PACKAGES`.
//
// The bindings have no call for adapters and no optional inputs: onnxruntime-web refuses them, onnxruntime-node ignores them
// without a word. So the bundle's tower without the defaults of its optional inputs is run instead, and experts are fed.
// Images are those that the host prepared; everything else is as in measure.py.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { expandNibbles, readAdapter } from "../../examples/javascript/adapter.mjs";
import { readNpy } from "../../examples/javascript/npy.mjs";
import { tensor } from "../../examples/javascript/tensor.mjs";
import { readSafetensors } from "./safetensors.mjs";

process.on("uncaughtException", (error) => process.stderr.write(`${error.message}\n`, () => process.exit(1)));
const [caseFolder, program, packages] = process.argv.slice(2);
const require = createRequire(join(packages, "package.json"));
const ort = require(program);
const web = program === "onnxruntime-web";
ort.env.logLevel = "error";
if (web) ort.env.wasm.numThreads = 1;

const bundle = join(caseFolder, "bundle");
const index = JSON.parse(readFileSync(join(bundle, "bundle.json")));
const spec = JSON.parse(readFileSync(join(caseFolder, "case.json")));
const inputs = readSafetensors(readFileSync(join(caseFolder, "inputs.safetensors")));
const defaults = Object.fromEntries(
  Object.entries(inputs)
    .filter(([name]) => name.startsWith("defaults/"))
    .map(([name, value]) => [name.slice(9), value]),
);
const tasks = index.tasks.map((task) => task.name);

const readArray = (name) => readNpy(new Uint8Array(readFileSync(join(bundle, name))), name);

async function open(folder, file) {
  const options = { executionProviders: [web ? "wasm" : "cpu"], logSeverityLevel: 3, intraOpNumThreads: 1 };
  if (!web) return ort.InferenceSession.create(join(folder, file), options);
  options.externalData = readdirSync(folder)
    .filter((name) => name.endsWith(".bin"))
    .map((path) => ({ path, data: new Uint8Array(readFileSync(join(folder, path))) }));
  return ort.InferenceSession.create(new Uint8Array(readFileSync(join(folder, file))), options);
}

async function run(session, feeds) {
  const tensors = Object.entries({ ...defaults, ...feeds }).filter(([name]) => session.inputNames.includes(name));
  return session.run(Object.fromEntries(tensors.map(([name, value]) => [name, tensor(ort, value)])));
}

function experts() {
  const shapes = Object.fromEntries(Object.entries(defaults).map(([name, { dims }]) => [name, dims]));
  return Object.fromEntries(
    index.tasks
      .filter((task) => task.expert)
      .map((task) => {
        const values = readAdapter(new Uint8Array(readFileSync(join(bundle, task.expert))), task.expert);
        return [task.name, expandNibbles(values, shapes)];
      }),
  );
}

function choose(posterior, confidence) {
  if (!(confidence >= index.router.confidence_bound)) return [];
  return [tasks[posterior.indexOf(Math.max(...posterior))]];
}

function softmax(scores) {
  const most = Math.max(...scores),
    shifted = scores.map((score) => Math.exp(score - most));
  const sum = shifted.reduce((a, b) => a + b);
  return shifted.map((value) => value / sum);
}

function label(embed, route, posterior, heads) {
  const scores = heads.map(
    ({
      weight: {
        dims: [labels, dim],
        data,
      },
      bias,
      scale,
    }) =>
      Array.from(
        { length: labels },
        (_, i) => scale * embed.reduce((sum, value, j) => sum + value * data[i * dim + j], 0) + (bias ? bias.data[i] : 0),
      ),
  );
  const weighted = heads.length > 1 && route.length && posterior;
  const probabilities = weighted
    ? scores.flatMap((row, t) => softmax(row).map((p) => p * posterior[t]))
    : softmax(scores.flat());
  const names = index.tasks.flatMap((task) => task.labels.map((name) => [task.name, name]));
  return names[probabilities.indexOf(Math.max(...probabilities))];
}

async function products() {
  if (!existsSync(join(caseFolder, "products.onnx"))) return {};
  const session = await open(caseFolder, "products.onnx");
  const digests = Object.fromEntries(session.outputNames.map((name) => [name, createHash("sha256")]));
  for (const [i, zeroPoint] of spec.zero_points.entries()) {
    const feeds = { zero_point: { type: "uint8", dims: [], data: Uint8Array.of(zeroPoint) } };
    for (const name of session.inputNames.filter((name) => name !== "zero_point")) {
      feeds[name] = inputs[name] ?? inputs[`${i}/${name}`];
    }
    for (const [name, { data }] of Object.entries(await run(session, feeds))) digests[name].update(Int32Array.from(data));
  }
  return Object.fromEntries(Object.entries(digests).map(([name, digest]) => [name, digest.digest("hex")]));
}

const {
  dims: [count, ...sides],
  data: everything,
} = inputs.pixel_values;
const size = everything.length / count;
const images = Array.from({ length: count }, (_, i) => ({
  pixel_values: { type: "float32", dims: [1, ...sides], data: everything.slice(i * size, (i + 1) * size) },
}));
const heads = index.tasks.map(({ head, bias, logit_scale: scale }) => ({
  weight: readArray(head),
  bias: bias && readArray(bias),
  scale,
}));
const tower = await open(bundle, index.tower_required_inputs ?? index.tower);
const loaded = experts();
const embed = async (feeds) => Array.from((await run(tower, feeds)).image_embeds.data);
const measured = { named: [], routed: [], routes: [], labels: [], seconds: {} };

let began = performance.now();
for (const [t, task] of tasks.entries()) {
  const mask = { type: "float32", dims: [tasks.length], data: Float32Array.from(tasks, (_, i) => Number(i === t)) };
  const top = { type: "int64", dims: [1], data: BigInt64Array.of(1n) };
  const expert = index.scope === "layer" ? { task_mask: mask, top_k: top } : loaded[task];
  const embeds = [];
  for (const image of images.slice(0, spec.embedded_images)) embeds.push(await embed({ ...image, ...expert }));
  measured.named.push(embeds);
}
measured.seconds.named = (performance.now() - began) / 1000;

began = performance.now();
const router = index.scope === "image" ? await open(bundle, index.router.file) : null;
for (const [i, image] of images.entries()) {
  let posterior = null,
    route = tasks,
    expert = {};
  if (router) {
    const scores = await run(router, image);
    posterior = Array.from(scores.posterior.data);
    route = choose(posterior, scores.confidence.data[0]);
    expert = loaded[route[0]] ?? {};
  }
  const outputs = await run(tower, { ...image, ...expert });
  const embeds = Array.from(outputs.image_embeds.data);
  if (index.scope === "layer") route = Array.from(outputs.route_tasks.data, (t) => tasks[Number(t)]);
  if (i < spec.embedded_images) measured.routed.push(embeds);
  measured.routes.push(route);
  measured.labels.push(label(embeds, route, posterior, heads));
}
measured.seconds.routed = (performance.now() - began) / 1000;

if (index.scope === "layer") {
  measured.golden = [];
  for (const k of [...new Set([index.top_k, tasks.length])]) {
    const top = { type: "int64", dims: [1], data: BigInt64Array.of(BigInt(k)) };
    const embeds = [];
    for (const image of images.slice(0, spec.golden_images)) embeds.push(await embed({ ...image, top_k: top }));
    measured.golden.push(embeds);
  }
}
measured.products = await products();
const largest = { type: "uint8", dims: [1, 64], data: new Uint8Array(64).fill(255) };
measured.full_codes = (await run(await open(caseFolder, "full_codes.onnx"), { activations: largest })).product.data[0];
process.stdout.write(JSON.stringify(measured), () => process.exit(0));
