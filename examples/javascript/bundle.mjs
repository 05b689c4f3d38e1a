// A bundle (docs/bundle-format.md): its index, and its files, of which none is believed before its hash was compared.

import { BundleError } from "./errors.mjs";
import { readNpy } from "./npy.mjs";

const FORMAT = "mingle-edge bundle",
  FORMAT_VERSION = 7;
const INDEX = "bundle.json";
const SCOPES = ["image", "layer", "folded"];
const STAGES = ["pixels", "blocks", "embedding"];
const PRECISIONS = ["fp32", "fp16", "int8", "int4"];
const TASK_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const ALIGNMENT = 4096; // bytes, of what lies in a file of weights

export class Bundle {
  #source;
  #heads = new Map();

  constructor(index, source) {
    this.index = index;
    this.#source = source;
  }

  // Reads and checks bundle.json; no other file is read. `source` has `read(name, record)`, which gives a file's bytes;
  // `record` is the file's size and sha256, absent for bundle.json. Where it has `keep(name, record, bytes)`, that is called
  // with each file whose hash was right.
  static async open(source) {
    const content = await source.read(INDEX);
    let index;
    try {
      index = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content));
    } catch (error) {
      throw new BundleError(`${INDEX} is not valid JSON: ${error.message}`);
    }
    checkIndex(index);
    return new Bundle(index, source);
  }

  get tasks() {
    return this.index.tasks.map((task) => task.name);
  }

  // The tower that JavaScript can run.
  get tower() {
    return this.index.tower_required_inputs ?? this.index.tower;
  }

  // The graphs that an image may need.
  get graphs() {
    return [this.tower, ...(this.index.router?.stages ?? []).map(({ file }) => file)];
  }

  // Names of the files that graphs take their weights from.
  get weights() {
    return Object.keys(this.index.files).filter((name) => name.endsWith(".bin"));
  }

  // The bytes of one file, with the size and the hash that bundle.json records.
  async read(name) {
    const record = this.index.files[name];
    const bytes = await this.#source.read(name, record);
    if (bytes.length !== record.size) {
      throw new BundleError(`${name} has ${bytes.length} bytes, ${INDEX} says ${record.size}: copy the bundle again`);
    }
    this.checkHash(name, hexadecimal(await crypto.subtle.digest("SHA-256", bytes)));
    await this.#source.keep?.(name, record, bytes);
    return bytes;
  }

  // Compares the hash of a file, in hexadecimal, with the recorded one.
  checkHash(name, sha256) {
    if (sha256 !== this.index.files[name].sha256) {
      throw new BundleError(`${name} has another sha256 than ${INDEX} says: it is damaged or of another bundle, copy it again`);
    }
  }

  // A task's head: `weight` [labels, dim], `bias` [labels] or null, `scale`.
  async head(name) {
    if (!this.#heads.has(name)) {
      const { head, bias, labels, logit_scale: scale } = this.index.tasks.find((task) => task.name === name);
      const dim = this.index.architecture.output_dim;
      this.#heads.set(name, {
        weight: await this.#array(head, [labels.length, dim]),
        bias: bias == null ? null : await this.#array(bias, [labels.length]),
        scale,
      });
    }
    return this.#heads.get(name);
  }

  // The plain backbone's vectors by name (image scope). `readWeights(name, from, to)`: gives bytes of a file of weights.
  async defaults(readWeights) {
    const { file, tensors } = this.index.defaults ?? { tensors: {} };
    const values = {};
    for (const [name, { offset, shape }] of Object.entries(tensors)) {
      const bytes = await readWeights(file, offset, offset + 4 * product(shape));
      values[name] = { type: "float32", dims: shape, data: new Float32Array(bytes.slice().buffer) };
    }
    return values;
  }

  async #array(name, shape) {
    const { dims, data } = readNpy(await this.read(name), name);
    if (String(dims) !== String(shape) || !data.every(Number.isFinite)) {
      throw new BundleError(`${name} must be a float32 array [${shape.join(", ")}] of finite values: export the bundle again`);
    }
    return data;
  }
}

export function product(sides) {
  return sides.reduce((all, side) => all * side, 1);
}

function checkIndex(index) {
  require(index?.format === FORMAT, `format must be "${FORMAT}"; this is not a bundle`);
  const version = index.format_version;
  require(version === FORMAT_VERSION, `format_version is ${version}, this reads ${FORMAT_VERSION}: export the bundle again`);
  require(SCOPES.includes(index.scope), `scope is ${JSON.stringify(index.scope)}, must be one of ${SCOPES.join(", ")}`);
  for (const [name, { size, sha256 }] of Object.entries(index.files)) {
    checkRelative(name);
    require(Number.isSafeInteger(size) && size >= 0, `files.${name}.size is ${size}, must be a number of bytes`);
    require(/^[0-9a-f]{64}$/.test(sha256), `files.${name}.sha256 is not 64 hexadecimal digits`);
  }
  const count = index.tasks.length;
  require(count >= 1 &&
    (index.scope !== "folded" || count === 1), `tasks has ${count}, a folded bundle has one, others have any`);
  const names = new Set(index.tasks.map(({ name }) => name.toLowerCase()));
  require(names.size === count, "two tasks have the same name");
  for (const [i, { name, labels, head, bias, expert, expert_bytes: size, logit_scale: scale, precision }] of index.tasks.entries()) {
    require(TASK_NAME.test(name), `tasks[${i}].name must match ${TASK_NAME.source}`);
    require(PRECISIONS.includes(precision), `tasks[${i}].precision must be one of ${PRECISIONS.join(", ")}`);
    require(labels.length > 0, `tasks[${i}].labels is empty`);
    require(scale > 0 && scale <= 1e6, `tasks[${i}].logit_scale is ${scale}, must be positive and at most 1e6`);
    require((expert != null) === (index.scope === "image"), `tasks[${i}].expert belongs to the image scope alone`);
    for (const file of [head, bias, expert])
      require(file == null || listed(index, file), `tasks[${i}]: ${file} is not in files`);
    require(expert == null ||
      index.files[expert].size === size, `tasks[${i}].expert_bytes is ${size}, files says another size`);
  }
  require(Number.isInteger(index.top_k) && index.top_k >= 1 && index.top_k <= count, `top_k must be from 1 to ${count}`);
  const stages = index.router?.stages ?? [];
  const graphs = [index.tower, index.defaults?.file, index.tower_required_inputs, index.page_bank?.file, ...stages.map(({ file }) => file)];
  for (const file of graphs) require(file == null || listed(index, file), `${file} is not in files`);
  for (const [member, scope] of [
    ["router", "image"],
    ["defaults", "image"],
    ["page_bank", "layer"],
  ]) {
    require((index[member] != null) === (index.scope === scope), `${member} belongs to the ${scope} scope alone`);
  }
  if (index.router) checkRouter(index.router, count);
  for (const [name, { offset, shape }] of Object.entries(index.defaults?.tensors ?? {})) {
    const end = offset + 4 * product(shape),
      size = index.files[index.defaults.file].size;
    require(offset >= 0 &&
      offset % ALIGNMENT === 0 &&
      end <= size, `defaults.tensors.${name} lies outside ${index.defaults.file}`);
  }
}

function checkRouter({ stages, judge }, count) {
  const names = stages.map(({ name }) => name);
  const ordered = names[0] === "pixels" && String(names) === String(STAGES.filter((name) => names.includes(name)));
  require(ordered, `router.stages are ${names.join(", ")}, must be pixels, then perhaps blocks, then perhaps embedding`);
  for (const { name, doubt, confidence_bound: bound } of stages)
    require([doubt, bound].every(Number.isFinite), `router.stages: doubt and confidence_bound of ${name} must be numbers`);
  if (judge == null) return;
  const { typical, deviation, trust, unsure, bound } = judge;
  const numbers = [...typical, ...deviation, trust, unsure, bound].every(Number.isFinite);
  require(numbers &&
    typical.length === count &&
    deviation.length === count, `router.judge must have ${count} numbers, one for each task`);
  require(deviation.every((value) => value > 0), "router.judge.deviation must be positive");
}

function checkRelative(name) {
  const inside = name.split("/").every((part) => !["", ".", ".."].includes(part)) && !/[\\:\0]/.test(name) && name !== INDEX;
  require(inside, `files lists ${JSON.stringify(name)}: paths must be relative, use '/', and stay inside the bundle`);
}

function listed(index, name) {
  return Object.hasOwn(index.files, name);
}

function require(holds, rule) {
  if (!holds) throw new BundleError(`${INDEX}: ${rule}`);
}

function hexadecimal(digest) {
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
