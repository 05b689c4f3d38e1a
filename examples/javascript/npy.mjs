// Arrays in numpy's own format, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: float32 in C order.

import { BundleError } from "./errors.mjs";

const MAGIC = "\x93NUMPY\x01\x00"; // version 1.0: 16 bits of header length, a header of text, then the values
const START = 10; // of the header, in bytes

export function readNpy(bytes, name) {
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  const end = START + (bytes[8] | (bytes[9] << 8));
  const header = text(START, end);
  const shape = header.match(/'shape': \(([\d, ]*)\)/);
  const known = header.includes("'descr': '<f4'") && header.includes("'fortran_order': False") && shape;
  if (text(0, MAGIC.length) !== MAGIC || !known) throw new BundleError(`${name} is no float32 array of numpy: export it again`);
  const dims = shape[1]
    .split(",")
    .filter((side) => side.trim())
    .map(Number);
  const values = bytes.slice(end);
  if (values.length !== 4 * dims.reduce((all, side) => all * side, 1)) {
    throw new BundleError(`${name} has more or fewer values than its header says: copy it again`);
  }
  return { dims, data: new Float32Array(values.buffer) };
}
