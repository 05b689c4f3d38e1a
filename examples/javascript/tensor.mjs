// Values { type, dims, data } as tensors of ONNX Runtime; float16 as the bits of its numbers, in a Uint16Array.
//
// Engines with Float16Array make onnxruntime-common ask for it, which onnxruntime-node 1.30 then cannot read: it wants the
// bits.
export function tensor(ort, { type, dims, data }) {
  if (type !== "float16") return new ort.Tensor(type, data, dims);
  return Object.assign(new ort.Tensor("uint16", data, dims), { type });
}
