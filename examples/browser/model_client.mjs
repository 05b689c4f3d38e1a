// The model of worker.mjs, for the page: every method returns a promise.

export class ModelClient {
  #worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
  #waiting = new Map();
  #last = 0;
  #failure = null; // why the worker answers no more

  // onProgress({ loaded, total }): called with bytes while a bundle is opened.
  constructor(onProgress = () => {}) {
    this.#worker.addEventListener("message", ({ data: { id, result, error, progress } }) => {
      if (progress) return onProgress(progress);
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      return error ? reject(Object.assign(new Error(error.message), { name: error.name })) : resolve(result);
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#failure = new Error(
        event.message || "the program of the model cannot be loaded: the server must hand out onnxruntime-web, too",
      );
      for (const { reject } of this.#waiting.values()) reject(this.#failure);
      this.#waiting.clear();
    });
  }

  open(parameters) {
    return this.#call("open", parameters);
  }

  // image: a Blob of a file, or an ImageBitmap, which is handed over.
  classify(image, options = {}) {
    return this.#call("classify", { image, options }, image instanceof ImageBitmap ? [image] : []);
  }

  status() {
    return this.#call("status");
  }

  keepAll() {
    return this.#call("keepAll");
  }

  forget() {
    return this.#call("forget");
  }

  #call(method, parameters, transfer = []) {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#last += 1;
      this.#waiting.set(this.#last, { resolve, reject });
      this.#worker.postMessage({ id: this.#last, method, parameters }, transfer);
    });
  }
}
