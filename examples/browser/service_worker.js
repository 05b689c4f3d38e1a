// Keeps the page and the runtime for use without a network; the bundle's files are kept by bundle_cache.mjs.

const CACHE = "mingle-edge-page";
const DIST = "../node_modules/onnxruntime-web/dist/";
const FILES = [
  "index.html",
  "style.css",
  "page.mjs",
  "answer_card.mjs",
  "model_client.mjs",
  "worker.mjs",
  "wasm_heap.mjs",
  "bundle_cache.mjs",
  "decode.mjs",
  ...[
    "adapter",
    "bundle",
    "byte_size",
    "edge_model",
    "errors",
    "expert_store",
    "float16",
    "image_file",
    "mixture",
    "npy",
    "preprocess",
    "resize",
    "tensor",
  ].map((name) => `../javascript/${name}.mjs`),
  `${DIST}ort.wasm.min.mjs`,
  `${DIST}ort-wasm-simd-threaded.mjs`,
  `${DIST}ort-wasm-simd-threaded.wasm`,
].map((name) => new URL(name, self.location).href);

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

// The newest that can be had: from the network where there is one.
self.addEventListener("fetch", (event) => {
  const address = event.request.url.split(/[?#]/)[0];
  if (event.request.method === "GET" && FILES.includes(address)) event.respondWith(newest(event.request, address));
});

async function newest(request, address) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(address, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(address);
    if (!kept) throw error;
    return kept;
  }
}
