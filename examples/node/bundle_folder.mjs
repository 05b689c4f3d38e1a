// A bundle in a folder, for onnxruntime-node.

import { readFile, realpath, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import * as ort from "onnxruntime-node";
import { Bundle } from "../javascript/bundle.mjs";
import { EdgeModel } from "../javascript/edge_model.mjs";
import { BundleError, NoBundleError } from "../javascript/errors.mjs";

export async function openModel(folder, { expertBudget = null, threads = null } = {}) {
  const bundle = await Bundle.open({ read: (name, record) => readPlain(folder, name, record) });
  ort.env.logLevel = "error";
  // The binding reads weights by itself, from the files whose hashes were compared just before.
  const openSession = (name) => ort.InferenceSession.create(join(folder, name), {
    executionProviders: ["cpu"], logSeverityLevel: 3, ...(threads && { intraOpNumThreads: threads }),
  });
  const graphs = [bundle.index.tower_required_inputs ?? bundle.index.tower, bundle.index.router?.file].filter(Boolean);
  for (const name of graphs) await bundle.read(name);
  return EdgeModel.open(bundle, ort, openSession, { expertBudget });
}

// A plain file inside the folder: a bundle comes from elsewhere, and opening it must open nothing else, nor wait for a pipe.
async function readPlain(folder, name, record) {
  try {
    const [root, path] = await Promise.all([realpath(folder), realpath(join(folder, name))]);
    const status = await stat(path);
    if (!path.startsWith(root + sep) || !status.isFile()) throw new BundleError(`${name} is no plain file in ${folder}: copy the bundle again`);
    if (record && status.size !== record.size) {
      throw new BundleError(`${name} has ${status.size} bytes, bundle.json says ${record.size}: copy the bundle again`);
    }
    return new Uint8Array(await readFile(path));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    if (record) throw new BundleError(`${join(folder, name)} is missing: copy the bundle again`);
    throw new NoBundleError(`${join(folder, name)} does not exist: name a folder that \`mingle-edge export\` wrote`);
  }
}
