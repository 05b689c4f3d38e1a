// Preprocesses pictures for test_javascript_preprocess.py: `node preprocess.mjs FOLDER`, with <n>.rgba as cases.json describes;
// writes <n>.f32.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { preprocess } from "../../examples/javascript/preprocess.mjs";

const folder = process.argv[2];
for (const [i, { spec, ...picture }] of JSON.parse(readFileSync(join(folder, "cases.json"))).entries()) {
  const data = new Uint8ClampedArray(readFileSync(join(folder, `${i}.rgba`)));
  writeFileSync(join(folder, `${i}.f32`), preprocess({ ...picture, data }, spec));
}
