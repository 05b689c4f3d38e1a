// Arrays in safetensors files.

const SAFETENSORS = {
  F32: ["float32", Float32Array],
  F16: ["float16", Uint16Array],
  I64: ["int64", BigInt64Array],
  I8: ["int8", Int8Array],
  U8: ["uint8", Uint8Array],
};

export function readSafetensors(bytes) {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString("utf8"));
  delete header.__metadata__;
  return Object.fromEntries(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        const [type, Values] = SAFETENSORS[dtype];
        const raw = Uint8Array.from(bytes.subarray(8 + length + from, 8 + length + to));
        return [name, { type, dims: shape, data: new Values(raw.buffer) }];
      },
    ),
  );
}
