// The memory of WebAssembly programs that begin after this module was imported: ONNX Runtime tells nobody of its own.

const memories = [];

WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(description) {
    super(description);
    memories.push(this);
  }
};

export function heapBytes() {
  return memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
}
