// Classifies images with a bundle, under Node:
//
//     node classify.mjs [--task NAME] [--head NAME] [--top 5] [--budget 64MB] [--threads N] [--json] BUNDLE IMAGE...
//
// Needs `npm ci --ignore-scripts --prefix examples` (or `make javascript`) once. A broken image costs the others nothing. Exit
// codes are those of `mingle-edge`: 1 where some images were broken, 2 for usage, 3 for an input that is wrong or where all
// images were broken, 4 for a damaged bundle.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { byteSize } from "../javascript/byte_size.mjs";
import { BudgetError, BundleError, ExpertError, ImageError, NoBundleError, UnknownTaskError } from "../javascript/errors.mjs";
import { openModel } from "./bundle_folder.mjs";
import { decode } from "./decode.mjs";

const USAGE =
  "usage: node classify.mjs [--task NAME] [--head NAME] [--top 5] [--budget 64MB] [--threads N] [--json] BUNDLE IMAGE...";
const OPTIONS = {
  task: { type: "string" },
  head: { type: "string" },
  top: { type: "string", default: "5" },
  budget: { type: "string" },
  threads: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h" },
};
const PARTLY = 1,
  USAGE_ERROR = 2,
  INPUT = 3,
  DAMAGED = 4;
const EXIT_CODES = new Map([
  [BudgetError, INPUT],
  [UnknownTaskError, INPUT],
  [NoBundleError, INPUT],
  [BundleError, DAMAGED],
  [ExpertError, DAMAGED],
]);

const FILE_ERRORS = { ENOENT: "there is no such file", EISDIR: "it is a folder", EACCES: "it may not be read" };

async function main() {
  const {
    values,
    positionals: [folder, ...images],
  } = parsed();
  const expertBudget = values.budget == null ? null : byteSize(values.budget);
  const model = await openModel(folder, { expertBudget, threads: values.threads && Number(values.threads) });
  const options = { task: values.task, head: values.head, top: Number(values.top) };
  let answered = 0;
  for (const image of images) {
    try {
      const began = performance.now();
      const picture = await decode(await readFile(image));
      const decoded = performance.now() - began;
      const answer = await model.classify(picture, options);
      const prediction = { ...answer, milliseconds: { decode: decoded, ...answer.milliseconds } };
      console.log(values.json ? asJson(image, prediction) : asText(image, prediction));
      answered += 1;
    } catch (error) {
      if (!(error instanceof ImageError || error.code)) throw error; // Node's own errors of files have a code
      console.error(`error: ${image} cannot be read as an image: ${FILE_ERRORS[error.code] ?? error.message}`);
    }
  }
  if (answered < images.length) process.exitCode = answered ? PARTLY : INPUT;
  if (!values.json) console.log(summary(model));
  await model.close();
}

function parsed() {
  try {
    const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
    if (values.help) {
      console.log(USAGE);
      process.exit();
    }
    if (positionals.length < 2) throw new Error("name a bundle and at least one image");
    for (const name of ["top", "threads"]) {
      if (values[name] != null && !/^[1-9]\d*$/.test(values[name]))
        throw new Error(`--${name} must be a whole number and at least 1`);
    }
    return { values, positionals };
  } catch (error) {
    console.error(`error: ${error.message}\n${USAGE}`);
    process.exit(USAGE_ERROR);
  }
}

function asText(image, { labels, tasks, probabilities, route, milliseconds }) {
  const answers = labels.map((label, i) => `${label} (${tasks[i]}) ${probabilities[i].toFixed(3)}`).join(", ");
  const total = Object.values(milliseconds).reduce((sum, part) => sum + part, 0);
  return `${image}: ${answers}; by ${route.tasks.join(", ") || "the plain backbone"}, ${total.toFixed(1)} ms`;
}

function asJson(image, { embedding, ...prediction }) {
  return JSON.stringify({ image, ...prediction, embedding: Array.from(embedding) });
}

function summary({ stats }) {
  const memory = `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB of memory`;
  if (!stats) return memory;
  const resident = `${(stats.residentBytes / 1e6).toFixed(1)} MB resident`;
  return `experts: ${stats.hits} hits, ${stats.misses} misses, ${resident}; ${memory}`;
}

try {
  await main();
} catch (error) {
  if (!EXIT_CODES.has(error.constructor)) throw error;
  console.error(`error: ${error.message}`);
  process.exit(EXIT_CODES.get(error.constructor));
}
