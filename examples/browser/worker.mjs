// The model, in a thread of its own, so that the page stays responsive: answers messages { id, method, parameters }.

import { heapBytes } from "./wasm_heap.mjs"; // before the runtime, whose memory it sees
import * as ort from "../node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Bundle } from "../javascript/bundle.mjs";
import { EdgeModel } from "../javascript/edge_model.mjs";
import { BundleCache } from "./bundle_cache.mjs";
import { decode } from "./decode.mjs";

ort.env.wasm.wasmPaths = new URL("../node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.logLevel = "error";

let source, bundle, model;

const methods = {
  // base: address of the bundle. expertBudget: bytes, or null.
  async open({ base, expertBudget }) {
    let loaded = 0,
      total = 0;
    source = new BundleCache(base, (count) => {
      loaded += count;
      postMessage({ progress: { loaded: Math.min(loaded, total), total } });
    });
    bundle = await Bundle.open(source);
    const { index } = bundle,
      heads = index.tasks.flatMap(({ head, bias }) => (bias ? [head, bias] : [head]));
    total = [...bundle.graphs, ...bundle.weights, ...heads].reduce((sum, name) => sum + index.files[name].size, 0);
    const weights = new Map(); // until the sessions have their own copies
    for (const name of bundle.weights) weights.set(name, await bundle.read(name));
    const externalData = [...weights].map(([path, data]) => ({ path, data }));
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3, externalData };
    const host = {
      ort,
      openSession: async (name) => ort.InferenceSession.create(await bundle.read(name), options),
      readWeights: async (name, from, to) => weights.get(name).subarray(from, to),
    };
    model = await EdgeModel.open(bundle, host, { expertBudget });
    await source.keepOnly(index);
    return {
      scope: index.scope,
      precision: index.precision,
      imageSize: index.preprocess.image_size,
      threads: ort.env.wasm.numThreads,
      tasks: index.tasks.map(({ name, labels }) => ({ name, labels: labels.length })),
    };
  },

  // image: a Blob or an ImageBitmap.
  async classify({ image, options }) {
    const began = performance.now();
    const picture = await decode(image);
    const decoded = performance.now() - began;
    const answer = await model.classify(picture, options);
    return { ...answer, milliseconds: { decode: decoded, ...answer.milliseconds } };
  },

  async status() {
    const experts = bundle.index.tasks.filter((task) => task.expert);
    const kept = await Promise.all(experts.map(({ expert }) => source.isKept(expert, bundle.index.files[expert])));
    return {
      experts: model.stats,
      heapBytes: heapBytes(),
      notes: source.notes,
      expertsKept: kept.filter(Boolean).length,
      expertsTotal: experts.length,
      missingBytes: experts.reduce((sum, task, i) => sum + (kept[i] ? 0 : task.expert_bytes), 0),
    };
  },

  // Fetches the experts that no image asked for yet, so that all are there without a network.
  async keepAll() {
    for (const { expert } of bundle.index.tasks) if (expert) await bundle.read(expert);
  },

  async forget() {
    await BundleCache.forget();
  },
};

addEventListener("message", async ({ data: { id, method, parameters } }) => {
  try {
    postMessage({ id, result: await methods[method](parameters ?? {}) });
  } catch (error) {
    postMessage({ id, error: { name: error.constructor.name, message: error.message } });
  }
});
