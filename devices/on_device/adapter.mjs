// Reads an expert in ONNX Runtime's adapter format, a flatbuffer: its parameters as tensors by name.
//
// The schema's fields (onnxruntime/lora/adapter_format): Adapter { format_version, adapter_version, model_version, parameters },
// Parameter { name, dims: [int64], data_type, raw_data: [uint8] }; field i lies at vtable offset 4 + 2 i.

const PARAMETERS = 10, NAME = 4, DIMS = 6, DATA_TYPE = 8, RAW_DATA = 10;
const BLOCK = 32; // 4-bit codes that share a scale

export const TYPES = { // of onnx.TensorProto.DataType
  1: ["float32", Float32Array], 2: ["uint8", Uint8Array], 3: ["int8", Int8Array],
  7: ["int64", BigInt64Array], 10: ["float16", Uint16Array],
};

export function readAdapter(bytes, { ByteBuffer }) {
  const buffer = new ByteBuffer(bytes);
  const field = (table, offset) => { const at = buffer.__offset(table, offset); return at && table + at; };
  const vector = (at) => [buffer.__vector(at), buffer.__vector_len(at)];
  const adapter = buffer.__indirect(buffer.position());
  const [start, count] = vector(field(adapter, PARAMETERS));
  const values = {};
  for (let i = 0; i < count; i++) {
    const parameter = buffer.__indirect(start + 4 * i);
    const [dims, rank] = vector(field(parameter, DIMS));
    const [raw, size] = vector(field(parameter, RAW_DATA));
    const [type, Values] = TYPES[buffer.readInt32(field(parameter, DATA_TYPE))];
    values[buffer.__string(field(parameter, NAME))] = {
      type,
      dims: Array.from({ length: rank }, (_, j) => Number(buffer.readInt64(dims + 8 * j))),
      data: new Values(bytes.slice(raw, raw + size).buffer),
    };
  }
  return values;
}

// Codes of 4 bits as codes of 8 with one scale a rank row (docs/bundle-format.md); `shapes` are those of the tower's defaults.
export function expandNibbles(values, shapes, largest) {
  for (const name of Object.keys(values).filter((name) => name.endsWith(".A_nibbles"))) {
    const layer = name.slice(0, -".A_nibbles".length);
    const A = toBytes(values, `${layer}.A`, shapes[`${layer}.A_codes`][0], largest);
    const B = toBytes(values, `${layer}.B`, shapes[`${layer}.B_codes`][1], largest);
    const transposed = new Int8Array(A.codes.length); // [d_in, rank]
    for (let r = 0; r < A.rank; r++) {
      for (let j = 0; j < A.columns; j++) transposed[j * A.rank + r] = A.codes[r * A.columns + j];
    }
    const scale = A.scales.map((a, r) => Math.fround(Math.fround(a * B.scales[r]) * largest));
    values[`${layer}.A_codes`] = { type: "int8", dims: [A.columns, A.rank], data: transposed };
    values[`${layer}.B_codes`] = { type: "int8", dims: [B.rank, B.columns], data: B.codes };
    values[`${layer}.scale`] = { type: "float32", dims: [A.rank], data: scale };
  }
  return values;
}

function toBytes(values, name, columns, largest) {
  const { dims: [rank, bytes], data } = values[`${name}_nibbles`];
  const blockScales = values[`${name}_block_scales`].data;
  const blocks = blockScales.length / rank;
  delete values[`${name}_nibbles`];
  delete values[`${name}_block_scales`];
  const codes = new Int8Array(rank * columns), scales = new Float32Array(rank);
  for (let r = 0; r < rank; r++) {
    const row = Float32Array.from({ length: columns }, (_, j) => {
      const byte = data[r * bytes + (j >> 1)];
      return ((j & 1 ? byte >> 4 : byte & 15) - 8) * halfToNumber(blockScales[r * blocks + Math.floor(j / BLOCK)]);
    });
    const peak = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    scales[r] = peak > 0 ? Math.fround(peak / largest) : 1;
    for (let j = 0; j < columns; j++) codes[r * columns + j] = roundToEven(Math.fround(row[j] / scales[r]));
  }
  return { rank, columns, codes, scales };
}

function halfToNumber(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

function roundToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
