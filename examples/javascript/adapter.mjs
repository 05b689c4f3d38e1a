// An expert in ONNX Runtime's adapter format, a flatbuffer: its parameters as tensors by name.
//
// The schema (onnxruntime/lora/adapter_format): Adapter { format_version, adapter_version, model_version, parameters },
// Parameter { name, dims: [int64], data_type: int32, raw_data: [uint8] }. Field i of a table lies at entry 4 + 2 i of its
// vtable, and offsets are relative to where they stand (https://flatbuffers.dev/internals).

import { product } from "./bundle.mjs";
import { ExpertError } from "./errors.mjs";
import { halfToNumber } from "./float16.mjs";

const IDENTIFIER = 0x54524f54; // "TORT"
const PARAMETERS = 3,
  NAME = 0,
  DIMS = 1,
  DATA_TYPE = 2,
  RAW_DATA = 3;
const BLOCK = 32; // 4-bit codes that share a scale
const LARGEST_CODE = 64; // magnitude of an 8-bit code

const TYPES = {
  // of onnx.TensorProto.DataType
  1: ["float32", Float32Array],
  2: ["uint8", Uint8Array],
  3: ["int8", Int8Array],
  7: ["int64", BigInt64Array],
  10: ["float16", Uint16Array],
};

export function readAdapter(bytes, title) {
  try {
    return readParameters(bytes);
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error; // what reading beyond the end raises
    throw new ExpertError(`${title} cannot be read as an adapter: copy or export it again`);
  }
}

function readParameters(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const follow = (at) => at + view.getUint32(at, true);
  const field = (table, number) => {
    const vtable = table - view.getInt32(table, true),
      entry = 4 + 2 * number;
    const offset = entry < view.getUint16(vtable, true) ? view.getUint16(vtable + entry, true) : 0;
    if (!offset) throw new RangeError("a field is missing");
    return table + offset;
  };
  const vector = (at, itemBytes) => {
    const start = follow(at),
      count = view.getUint32(start, true);
    if (start + 4 + count * itemBytes > bytes.length) throw new RangeError("a vector ends beyond the file");
    return [start + 4, count];
  };
  if (view.getUint32(4, true) !== IDENTIFIER) throw new RangeError("no adapter");
  const [start, count] = vector(field(follow(0), PARAMETERS), 4);
  const parameters = {};
  for (let i = 0; i < count; i++) {
    const table = follow(start + 4 * i);
    const [name, length] = vector(field(table, NAME), 1);
    const [dims, rank] = vector(field(table, DIMS), 8);
    const [raw, size] = vector(field(table, RAW_DATA), 1);
    const [type, Values] = TYPES[view.getInt32(field(table, DATA_TYPE), true)];
    const sides = Array.from({ length: rank }, (_, j) => Number(view.getBigInt64(dims + 8 * j, true)));
    if (product(sides) * Values.BYTES_PER_ELEMENT !== size) throw new RangeError("a tensor is not as large as it says");
    const aligned = (bytes.byteOffset + raw) % Values.BYTES_PER_ELEMENT === 0;
    const data = aligned
      ? new Values(bytes.buffer, bytes.byteOffset + raw, size / Values.BYTES_PER_ELEMENT)
      : new Values(bytes.slice(raw, raw + size).buffer);
    parameters[new TextDecoder().decode(bytes.subarray(name, name + length))] = { type, dims: sides, data };
  }
  return parameters;
}

// An expert in 4 bits as the tower takes it: codes of 8 bits with one scale a rank row, and vectors (docs/bundle-format.md).
// `shapes`: the sides of the tower's inputs. `defaults`: the backbone's vectors, which such an expert changes.
export function expand(values, shapes, defaults, title) {
  try {
    changeVectors(values, defaults);
    expandNibbles(values, shapes);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // what a part that is missing raises
    throw new ExpertError(`${title}: what is in few bits does not fit the tower: export it again`);
  }
  return values;
}

function changeVectors(values, defaults) {
  for (const name of Object.keys(values).filter((name) => name.endsWith(".change_codes"))) {
    const vector = name.slice(0, -".change_codes".length);
    const { dims, data: codes } = values[name],
      { data: scale } = values[`${vector}.change_scale`];
    const columns = dims.at(-1);
    delete values[name];
    delete values[`${vector}.change_scale`];
    const data = defaults[vector].data.map((value, i) => value + Math.fround(scale[Math.floor(i / columns)] * codes[i]));
    values[vector] = { type: "float32", dims, data };
  }
}

function expandNibbles(values, shapes) {
  for (const name of Object.keys(values).filter((name) => name.endsWith(".A_nibbles"))) {
    const layer = name.slice(0, -".A_nibbles".length);
    const A = toBytes(values, `${layer}.A`, shapes[`${layer}.A_codes`][0]);
    const B = toBytes(values, `${layer}.B`, shapes[`${layer}.B_codes`][1]);
    const transposed = new Int8Array(A.codes.length); // [d_in, rank]
    for (let r = 0; r < A.rank; r++) {
      for (let j = 0; j < A.columns; j++) transposed[j * A.rank + r] = A.codes[r * A.columns + j];
    }
    const scale = A.scales.map((a, r) => Math.fround(Math.fround(a * B.scales[r]) * LARGEST_CODE));
    values[`${layer}.A_codes`] = { type: "int8", dims: [A.columns, A.rank], data: transposed };
    values[`${layer}.B_codes`] = { type: "int8", dims: [B.rank, B.columns], data: B.codes };
    values[`${layer}.scale`] = { type: "float32", dims: [A.rank], data: scale };
  }
}

function toBytes(values, name, columns) {
  const {
    dims: [rank, bytes],
    data,
  } = values[`${name}_nibbles`];
  const blockScales = values[`${name}_block_scales`].data;
  const blocks = blockScales.length / rank;
  delete values[`${name}_nibbles`];
  delete values[`${name}_block_scales`];
  const codes = new Int8Array(rank * columns),
    scales = new Float32Array(rank),
    row = new Float32Array(columns);
  for (let r = 0; r < rank; r++) {
    let peak = 0;
    for (let j = 0; j < columns; j++) {
      const byte = data[r * bytes + (j >> 1)];
      row[j] = ((j & 1 ? byte >> 4 : byte & 15) - 8) * halfToNumber(blockScales[r * blocks + Math.floor(j / BLOCK)]);
      peak = Math.max(peak, Math.abs(row[j]));
    }
    scales[r] = peak > 0 ? Math.fround(peak / LARGEST_CODE) : 1;
    for (let j = 0; j < columns; j++) codes[r * columns + j] = roundToEven(Math.fround(row[j] / scales[r]));
  }
  return { rank, columns, codes, scales };
}

// Refuses an expert that is not for this tower. `inputs`: type and shape by name; sides that are names may have any size, the
// same wherever the name stands.
export function checkFit(values, inputs, title) {
  const sides = new Map();
  for (const [name, { type, dims }] of Object.entries(values)) {
    const wanted = inputs[name];
    const fits =
      wanted &&
      wanted.type === type &&
      wanted.shape.length === dims.length &&
      wanted.shape.every((side, i) => {
        if (typeof side === "string") {
          if (!sides.has(side)) sides.set(side, dims[i]);
          return sides.get(side) === dims[i];
        }
        return side === dims[i];
      });
    if (!fits)
      throw new ExpertError(
        `${title} holds ${name}, ${type} [${dims.join(", ")}], which the tower does not take: export the bundle again`,
      );
  }
  const layers = new Set(Object.keys(values).filter(isFactor).map(layerOf));
  const missing = Object.keys(inputs).find(
    (name) => isFactor(name) && layers.has(layerOf(name)) && !Object.hasOwn(values, name),
  );
  if (missing)
    throw new ExpertError(`${title} lacks ${missing}, without which the layer's others mean nothing: export it again`);
}

function isFactor(name) {
  return /\.(A|B|A_codes|B_codes|scale)$/.test(name);
}

function layerOf(name) {
  return name.slice(0, name.lastIndexOf("."));
}

function roundToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
