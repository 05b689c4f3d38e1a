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
const EMPTY = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

export class EdgeModel {
  #ort;
  #tower;
  #router;
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
    this.#router = index.scope === "image" ? await host.openSession(index.router.file) : null;
    const described = this.#tower.inputMetadata.filter(({ name }) => name !== PIXELS);
    this.#inputs = Object.fromEntries(described.map(({ name, type, shape }) => [name, { type, shape }]));
    this.#defaults = this.#defaultValues(await bundle.defaults(host.readWeights));
    const sizes = new Map(index.tasks.map((task) => [task.name, residentBytes(index, task)]));
    if (this.#router) this.#experts = new ExpertStore(sizes, (task) => this.#readExpert(task), budget, index.top_k);
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
    await this.#router?.release();
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
    let route = task == null ? null : { tasks: [task], weights: [1], posterior: null, confidence: null };
    if (this.#router && !route) route = this.#choose(await this.#run(this.#router, pixels));
    clock.lap("route");
    let feeds = {};
    if (this.#experts) {
      const experts = await this.#experts.use(route.tasks);
      feeds = experts.length > 1 ? mix(experts, route.weights, this.#defaults) : (experts[0] ?? {});
    } else if (index.scope === "layer") {
      feeds = this.#layerFeeds(task);
    }
    clock.lap("expert");
    const outputs = await this.#run(this.#tower, { ...this.#defaults, ...feeds, ...pixels });
    const embedding = this.#checked(Float32Array.from(outputs.image_embeds.data));
    clock.lap("tower");
    if (index.scope === "layer") route = this.#layerRoute(outputs);
    route ??= { tasks: [index.tasks[0].name], weights: [1], posterior: null, confidence: null };
    const prediction = await this.#predict(embedding, route, head ?? task, top);
    clock.lap("head");
    return { ...prediction, embedding, route, milliseconds: clock.laps };
  }

  async #run(session, values) {
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, tensor(this.#ort, values[name])])));
  }

  #choose({
    posterior: { data },
    confidence: {
      data: [confidence],
    },
  }) {
    const posterior = Array.from(data),
      { index } = this.bundle;
    const sum = posterior.reduce((all, p) => all + p, 0);
    if (!posterior.every((p) => p >= 0) || !(Math.abs(sum - 1) <= ALLOWANCE)) {
      throw new BundleError(
        `${index.router.file} computes no probabilities of tasks: a weight is damaged; export the bundle again`,
      );
    }
    const claimed = confidence >= Math.fround(index.router.confidence_bound);
    const best = claimed ? largest(posterior, index.top_k) : [];
    const share = best.reduce((all, i) => Math.fround(all + posterior[i]), 0);
    const weights = best.map((i) => Math.fround(posterior[i] / share));
    return { tasks: best.map((i) => index.tasks[i].name), weights, posterior, confidence };
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
    return { tasks: used.map((t) => this.bundle.tasks[t]), weights, posterior: null, confidence: null };
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
