// A bundle opened for predictions in JavaScript: route, expert, tower, head, as `mingle_edge_runtime.EdgeModel` does it.
//
// The bindings of ONNX Runtime for JavaScript have no call for adapters and no optional inputs, so that the tower is the one
// whose inputs are all required, and every run feeds an expert or the backbone's own values.

import { checkFit, expand, readAdapter } from "./adapter.mjs";
import { product } from "./bundle.mjs";
import { BudgetError, BundleError, UnknownTaskError } from "./errors.mjs";
import { ExpertStore } from "./expert_store.mjs";
import { mix } from "./mixture.mjs";
import { preprocess } from "./preprocess.mjs";
import { tensor } from "./tensor.mjs";

const PIXELS = "pixel_values";
const ALLOWANCE = 1e-3; // how far from 1 a posterior's sum and an embedding's length may be
const MOST_TYPICAL = 1; // deviations above the typical logit that count towards claiming an image
const EMPTY = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

export class EdgeModel {
  #ort;
  #tower;
  #stages; // of the router, one session each; null where there is none
  #inputs; // of the tower: type and shape by name
  #defaults; // what every run feeds where the expert has nothing
  #experts;
  #last = Promise.resolve(); // sessions run one image at a time: bundles of 8 bits must, and WebAssembly cannot do more

  // host: what differs between Node and browsers: `ort`, the module of ONNX Runtime; `openSession(name)`, which opens a graph
  // of the bundle; `readWeights(name, from, to)`, which gives bytes of a file of weights. All of files whose hashes were
  // compared. expertBudget: bytes of experts to keep; null keeps all that were used.
  static async open(bundle, host, { expertBudget = null } = {}) {
    const model = new EdgeModel();
    await model.#open(bundle, host, expertBudget);
    return model;
  }

  async #open(bundle, host, budget) {
    const { index } = bundle;
    this.bundle = bundle;
    this.#ort = host.ort;
    if (index.scope === "image" && !index.tower_required_inputs) {
      throw new BundleError("the bundle has no tower for JavaScript (tower_required_inputs): export it again");
    }
    if (index.scope === "layer" && budget != null) {
      const all = index.tasks.reduce((sum, task) => sum + task.expert_bytes, 0); // of its tower, which is one graph
      if (budget < all) {
        throw new BudgetError(
          `an expert budget of ${budget} bytes is too small: in the layer scope all experts are in memory here, ${all} bytes`,
        );
      }
    }
    this.#tower = await host.openSession(bundle.tower);
    this.#stages = index.scope === "image" ? [] : null;
    for (const { file } of index.router?.stages ?? []) this.#stages.push(await host.openSession(file));
    const described = this.#tower.inputMetadata.filter(({ name }) => name !== PIXELS);
    this.#inputs = Object.fromEntries(described.map(({ name, type, shape }) => [name, { type, shape }]));
    this.#defaults = this.#defaultValues(await bundle.defaults(host.readWeights));
    const sizes = new Map(index.tasks.map((task) => [task.name, residentBytes(index, task)]));
    if (this.#stages) this.#experts = new ExpertStore(sizes, (task) => this.#readExpert(task), budget, index.top_k);
    for (const task of bundle.tasks) await bundle.head(task); // small, and a damaged one is found now
  }

  // A picture { width, height, data, indexed }, RGBA, to the `top` most probable labels. task: use this task's expert and
  // labels. head: use this task's labels, whichever expert runs. With neither, the labels of all tasks compete.
  classify(picture, options = {}) {
    const answer = this.#last.then(() => this.#classify(picture, options));
    this.#last = answer.catch(() => {});
    return answer;
  }

  get stats() {
    return this.#experts ? { ...this.#experts.stats, resident: this.#experts.resident } : null;
  }

  async close() {
    await this.#last;
    await this.#tower.release();
    for (const stage of this.#stages ?? []) await stage.release();
  }

  async #classify(picture, { task = null, head = null, top = 5 }) {
    const { index } = this.bundle;
    for (const name of [task, head]) {
      if (name != null && !this.bundle.tasks.includes(name)) {
        throw new UnknownTaskError(
          `there is no task ${JSON.stringify(name)} in the bundle, which has ${this.bundle.tasks.join(", ")}`,
        );
      }
    }
    const clock = stopwatch();
    const { image_size: side } = index.preprocess;
    const pixels = { [PIXELS]: { type: "float32", dims: [1, 3, side, side], data: preprocess(picture, index.preprocess) } };
    clock.lap("preprocess");
    let route = task == null ? null : { tasks: [task], weights: [1], posterior: null, confidence: null, stage: null };
    let embedding = null; // the router may need it, and then it does not run again
    if (this.#stages && !route) ({ route, embedding } = await this.#route(pixels));
    clock.lap("route");
    let outputs = null;
    if (!embedding) {
      const feeds = this.#experts ? await this.#expertFeeds(route) : index.scope === "layer" ? this.#layerFeeds(task) : {};
      clock.lap("expert");
      outputs = await this.#run(this.#tower, { ...this.#defaults, ...feeds, ...pixels });
      embedding = this.#checked(Float32Array.from(outputs.image_embeds.data));
      clock.lap("tower");
    }
    if (index.scope === "layer") route = this.#layerRoute(outputs);
    route ??= { tasks: [index.tasks[0].name], weights: [1], posterior: null, confidence: null, stage: null };
    const prediction = await this.#predict(embedding, route, head ?? task, top);
    clock.lap("head");
    return { ...prediction, embedding, route, milliseconds: clock.laps };
  }

  async #run(session, values) {
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, tensor(this.#ort, values[name])])));
  }

  // The route of an image, and its embedding where finding the route took the very run that gives it. Each stage of the router
  // is run only where the one before is in doubt.
  async #route(pixels) {
    const { stages } = this.bundle.index.router;
    let features = null;
    let plain = null; // the plain backbone's embedding
    for (const [number, stage] of stages.entries()) {
      let own = pixels;
      if (stage.name === "embedding") {
        plain = await this.#embed([], pixels);
        own = { image_embeds: { type: "float32", dims: [1, plain.length], data: plain } };
      }
      const outputs = await this.#run(this.#stages[number], features ? { ...own, previous_features: features } : own);
      const { route, order, further } = this.#choose(outputs, stage, number === stages.length - 1);
      if (!further) return { route, embedding: route.tasks.length ? null : plain };
      if (number === stages.length - 1) return this.#judge(route, order.slice(0, 2), pixels, plain);
      features = { type: "float32", dims: Array.from(outputs.features.dims), data: Float32Array.from(outputs.features.data) };
    }
  }

  // What a stage chooses, the tasks in the order of what their experts are expected to lose, and whether the image goes further:
  // to the next stage or, from the last, to the judge. Outputs are float32, and so are the bounds they are compared with.
  #choose(outputs, { name, file, doubt, confidence_bound: bound }, last) {
    const { index } = this.bundle;
    const posterior = Array.from(outputs.posterior.data);
    const losses = Array.from(outputs.losses.data);
    const [confidence] = outputs.confidence.data;
    const sum = posterior.reduce((all, p) => all + p, 0);
    if (!posterior.every((p) => p >= 0) || !(Math.abs(sum - 1) <= ALLOWANCE) || !losses.every(Number.isFinite)) {
      throw new BundleError(`${file} computes no probabilities of tasks: a weight is damaged; export the bundle again`);
    }
    const claimed = confidence >= Math.fround(bound);
    const sure = Math.min(...losses) <= Math.fround(doubt);
    const judge = index.top_k === 1 && index.tasks.length > 1 ? index.router.judge : null;
    const further = last
      ? judge != null && claimed && !(sure && confidence >= Math.fround(judge.unsure))
      : !(claimed && sure);
    const order = largest(
      losses.slice(0, -1).map((loss) => -loss),
      index.tasks.length,
    );
    const best = claimed && losses[order[0]] <= losses.at(-1) ? order.slice(0, index.top_k) : [];
    const shares = best.map((i) => posterior[i]).some((p) => p > 0) ? best.map((i) => posterior[i]) : best.map(() => 1);
    const share = shares.reduce((all, p) => Math.fround(all + p), 0);
    const weights = shares.map((p) => Math.fround(p / share));
    const route = { tasks: best.map((i) => index.tasks[i].name), weights, posterior, confidence, stage: name };
    return { route, order, further };
  }

  // Runs two experts, and takes the one whose largest logit is more typical of its own task; neither where it is not at all.
  async #judge(route, pair, pixels, plain) {
    const { typical, deviation, trust, bound } = this.bundle.index.router.judge;
    const runs = [];
    for (const task of pair) {
      const name = this.bundle.tasks[task];
      const embedding = await this.#embed([name], pixels);
      const most = logits(await this.bundle.head(name), embedding).reduce((a, b) => Math.max(a, b));
      const typicality = (most - typical[task]) / deviation[task];
      const score = typicality + trust * Math.log(Math.max(route.posterior[task], Number.MIN_VALUE * 2 ** 52));
      runs.push({ name, embedding, typicality, score });
    }
    const won = runs[1].score > runs[0].score ? runs[1] : runs[0];
    const judged = { ...route, stage: "experts" };
    if (route.confidence + Math.min(won.typicality, MOST_TYPICAL) >= bound)
      return { route: { ...judged, tasks: [won.name], weights: [1] }, embedding: won.embedding };
    return { route: { ...judged, tasks: [], weights: [] }, embedding: plain };
  }

  // The embedding under the expert of one task, or of the plain backbone with none.
  async #embed(tasks, pixels) {
    const feeds = await this.#expertFeeds({ tasks, weights: tasks.map(() => 1) });
    const { image_embeds: embeds } = await this.#run(this.#tower, { ...this.#defaults, ...feeds, ...pixels });
    return this.#checked(Float32Array.from(embeds.data));
  }

  async #expertFeeds({ tasks, weights }) {
    const experts = await this.#experts.use(tasks);
    return experts.length > 1 ? mix(experts, weights, this.#defaults) : (experts[0] ?? {});
  }

  #layerFeeds(task) {
    const { tasks, top_k: topK } = this.bundle.index;
    if (!this.#inputs.task_mask) {
      if (task == null) return {};
      throw new BundleError(
        "a task cannot be named with this bundle of the layer scope, which has no tower_required_inputs: export it again",
      );
    }
    const allowed = Float32Array.from(tasks, ({ name }) => Number(task == null || name === task));
    const top = BigInt64Array.of(BigInt(task == null ? topK : 1));
    return {
      top_k: { type: "int64", dims: [1], data: top },
      task_mask: { type: "float32", dims: [tasks.length], data: allowed },
    };
  }

  #layerRoute({ route_tasks: { data } }) {
    const counts = this.bundle.tasks.map((_, t) => data.reduce((count, chosen) => count + (Number(chosen) === t), 0));
    const used = largest(counts, counts.length).filter((t) => counts[t] > 0);
    const weights = used.map((t) => counts[t] / data.length);
    return { tasks: used.map((t) => this.bundle.tasks[t]), weights, posterior: null, confidence: null, stage: null };
  }

  #defaultValues(vectors) {
    return Object.fromEntries(
      Object.entries(this.#inputs)
        .filter(([name]) => !["top_k", "task_mask"].includes(name))
        .map(([name, { type, shape }]) => {
          if (vectors[name]) return [name, vectors[name]];
          const rank = /\.[AB]$/.test(name) ? 0 : 1; // in codes one row of zeros, which quantization needs
          const dims = shape.map((size) => (typeof size === "string" ? rank : size));
          return [name, { type, dims, data: new EMPTY[type](product(dims)) }];
        }),
    );
  }

  async #readExpert(name) {
    const { expert } = this.bundle.index.tasks.find((task) => task.name === name);
    const shapes = Object.fromEntries(Object.entries(this.#inputs).map(([input, { shape }]) => [input, shape]));
    const values = expand(readAdapter(await this.bundle.read(expert), expert), shapes, this.#defaults, expert);
    checkFit(values, this.#inputs, expert);
    return values;
  }

  #checked(embedding) {
    const length = Math.hypot(...embedding);
    const wanted = this.bundle.index.architecture.normalized ? Math.abs(length - 1) <= ALLOWANCE : Number.isFinite(length);
    if (!wanted)
      throw new BundleError(
        "the tower computes an embedding that is not finite or not of unit length: export the bundle again",
      );
    return embedding;
  }

  async #predict(embedding, route, head, top) {
    const competing = head == null ? this.bundle.tasks : [head];
    const heads = await Promise.all(competing.map((task) => this.bundle.head(task)));
    const scores = heads.map((one) => logits(one, embedding));
    const weighted = heads.length > 1 && route.tasks.length && route.posterior;
    const probabilities = weighted
      ? scores.flatMap((row, t) => softmax(row).map((p) => p * route.posterior[t]))
      : softmax(scores.flat());
    const labels = new Map(this.bundle.index.tasks.map((task) => [task.name, task.labels]));
    const names = competing.flatMap((task) => labels.get(task).map((label) => [task, label]));
    const best = largest(probabilities, top);
    return {
      label: names[best[0]][1],
      task: names[best[0]][0],
      probability: probabilities[best[0]],
      labels: best.map((i) => names[i][1]),
      tasks: best.map((i) => names[i][0]),
      probabilities: best.map((i) => probabilities[i]),
    };
  }
}

// Of an expert in 4 bits, the bytes of what it is expanded to: codes of 8 bits, and vectors of float32.
function residentBytes({ defaults }, { precision, expert_bytes: size }) {
  if (precision !== "int4") return size;
  return 2 * size + 2 * Object.values(defaults?.tensors ?? {}).reduce((sum, { shape }) => sum + product(shape), 0);
}

function logits({ weight, bias, scale }, embedding) {
  return Array.from({ length: weight.length / embedding.length }, (_, i) => {
    const sum = embedding.reduce((all, value, j) => all + value * weight[i * embedding.length + j], 0);
    return scale * sum + (bias ? bias[i] : 0);
  });
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// Positions of the largest values, largest first; of equal ones the first.
function largest(values, count) {
  return values
    .map((_, i) => i)
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, count);
}

function stopwatch() {
  let last = performance.now();
  const laps = {};
  return {
    laps,
    lap(name) {
      const now = performance.now();
      laps[name] = now - last;
      last = now;
    },
  };
}
