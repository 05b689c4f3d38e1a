// Several experts as one: sum c_t B_t A_t is the expert of concatenated ranks, so that the tower runs once for any number.

import { halfToNumber, numberToHalf } from "./float16.mjs";

// experts: parameters by name, of each expert; what one has not, it does not change. defaults: the backbone's vectors.
export function mix(experts, weights, defaults) {
  const mixed = {};
  for (const name of new Set(experts.flatMap((expert) => Object.keys(expert)))) {
    const having = experts.map((expert, i) => [weights[i], expert[name]]).filter(([, value]) => value);
    const parts = having.map(([, value]) => value);
    const kind = name.slice(name.lastIndexOf(".") + 1);
    if (kind === "A_codes") mixed[name] = besideEachOther(parts);
    else if (kind === "A" || kind === "B_codes") mixed[name] = aboveEachOther(parts);
    else if (kind === "B" || kind === "scale")
      mixed[name] = aboveEachOther(having.map(([weight, value]) => scaled(value, weight)));
    else mixed[name] = moved(defaults[name], having);
  }
  return mixed;
}

function scaled({ type, dims, data }, weight) {
  const half = type === "float16";
  const values = data.map((value) => (half ? numberToHalf(weight * halfToNumber(value)) : weight * value));
  return { type, dims, data: values };
}

function aboveEachOther(parts) {
  // [r, ...] -> [sum r, ...]
  const data = new parts[0].data.constructor(parts.reduce((sum, part) => sum + part.data.length, 0));
  let end = 0;
  for (const part of parts) {
    data.set(part.data, end);
    end += part.data.length;
  }
  return { type: parts[0].type, dims: [parts.reduce((sum, { dims }) => sum + dims[0], 0), ...parts[0].dims.slice(1)], data };
}

function besideEachOther(parts) {
  // [d, r] -> [d, sum r]
  const rows = parts[0].dims[0],
    columns = parts.reduce((sum, { dims }) => sum + dims[1], 0);
  const data = new Int8Array(rows * columns);
  let first = 0;
  for (const {
    dims: [, width],
    data: codes,
  } of parts) {
    for (let i = 0; i < rows; i++) data.set(codes.subarray(i * width, (i + 1) * width), i * columns + first);
    first += width;
  }
  return { type: "int8", dims: [rows, columns], data };
}

function moved({ type, dims, data }, having) {
  const value = Float32Array.from(data);
  for (const [weight, expert] of having) {
    for (let i = 0; i < value.length; i++) value[i] += weight * (expert.data[i] - data[i]);
  }
  return { type, dims, data: value };
}
