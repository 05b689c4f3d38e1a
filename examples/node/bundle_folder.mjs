// A bundle in a folder, for onnxruntime-node.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, readFile, realpath, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import * as ort from "onnxruntime-node";
import { Bundle } from "../javascript/bundle.mjs";
import { EdgeModel } from "../javascript/edge_model.mjs";
import { BundleError, NoBundleError } from "../javascript/errors.mjs";

export async function openModel(folder, { expertBudget = null, threads = null } = {}) {
  const find = (name, record) => findPlain(folder, name, record);
  const bundle = await Bundle.open({ read: async (name, record) => new Uint8Array(await readFile(await find(name, record))) });
  // ONNX Runtime reads graphs and weights by itself, from files whose hashes were compared just before.
  for (const name of [...bundle.graphs, ...bundle.weights]) {
    const hash = createHash("sha256");
    await pipeline(createReadStream(await find(name, bundle.index.files[name])), hash);
    bundle.checkHash(name, hash.digest("hex"));
  }
  ort.env.logLevel = "error";
  const options = { executionProviders: ["cpu"], logSeverityLevel: 3, ...(threads && { intraOpNumThreads: threads }) };
  const host = {
    ort,
    openSession: (name) => ort.InferenceSession.create(join(folder, name), options),
    readWeights: async (name, from, to) => {
      const file = await open(join(folder, name));
      try {
        return (await file.read({ buffer: new Uint8Array(to - from), position: from })).buffer;
      } finally {
        await file.close();
      }
    },
  };
  return EdgeModel.open(bundle, host, { expertBudget });
}

// The path of a plain file inside the folder: a bundle comes from elsewhere, and opening it must open nothing else, nor wait
// for a pipe.
async function findPlain(folder, name, record) {
  try {
    const [root, path] = await Promise.all([realpath(folder), realpath(join(folder, name))]);
    const status = await stat(path);
    if (!path.startsWith(root + sep) || !status.isFile())
      throw new BundleError(`${name} is no plain file in ${folder}: copy the bundle again`);
    if (record && status.size !== record.size) {
      throw new BundleError(`${name} has ${status.size} bytes, bundle.json says ${record.size}: copy the bundle again`);
    }
    return path;
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    if (record) throw new BundleError(`${join(folder, name)} is missing: copy the bundle again`);
    throw new NoBundleError(`${join(folder, name)} does not exist: name a folder that \`mingle-edge export\` wrote`);
  }
}
