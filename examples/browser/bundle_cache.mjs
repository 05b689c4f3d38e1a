// The files of a bundle from the network, kept on this device once their hashes were checked: after that no network is needed.
//
// A file is kept under its name and hash, so that a bundle that replaces another is fetched where it differs and nowhere else.

import { BundleError, NoBundleError } from "../javascript/errors.mjs";

const CACHE = "mingle-edge-bundle";

export class BundleCache {
  #base;
  #onBytes;
  #notes = new Set();

  // base: address of the bundle's folder. onBytes(count): called as bytes arrive.
  constructor(base, onBytes) {
    if (!globalThis.caches || !crypto.subtle) {
      throw new BundleError("this page needs https, or localhost: elsewhere browsers have neither hashes nor storage");
    }
    this.#base = base;
    this.#onBytes = onBytes;
  }

  // What went wrong with keeping files, for people to read.
  get notes() {
    return [...this.#notes];
  }

  async read(name, record) {
    const address = this.#address(name, record);
    const cache = await caches.open(CACHE);
    if (!record) return this.#readIndex(address, cache);
    const response = (await cache.match(address)) ?? (await this.#fetch(address, name));
    return this.#bytes(response, record.size);
  }

  // Called with a file whose hash is the recorded one.
  async keep(name, record, bytes) {
    const address = this.#address(name, record),
      cache = await caches.open(CACHE);
    if (await cache.match(address)) return;
    try {
      await cache.put(address, new Response(bytes));
    } catch (error) {
      this.#notes.add(`${name} is not kept for use without a network: ${error.message}`);
    }
  }

  async isKept(name, record) {
    return Boolean(await (await caches.open(CACHE)).match(this.#address(name, record)));
  }

  // Gives up the files of bundles that were replaced.
  async keepOnly(index) {
    const wanted = new Set(Object.entries(index.files).map(([name, record]) => this.#address(name, record)));
    wanted.add(this.#address("bundle.json"));
    const cache = await caches.open(CACHE);
    for (const { url } of await cache.keys()) if (url.startsWith(this.#base) && !wanted.has(url)) await cache.delete(url);
  }

  static async forget() {
    await caches.delete(CACHE);
  }

  #address(name, record) {
    const address = new URL(name.split("/").map(encodeURIComponent).join("/"), this.#base);
    if (record) address.searchParams.set("sha256", record.sha256);
    return address.href;
  }

  // The newest that can be had: of another bundle than was kept only where there is a network to fetch its files from.
  async #readIndex(address, cache) {
    let response;
    try {
      response = await this.#fetch(address, "bundle.json");
      await cache.put(address, response.clone());
    } catch (error) {
      response = await cache.match(address);
      if (!response) throw error;
    }
    return new Uint8Array(await response.arrayBuffer());
  }

  async #fetch(address, name) {
    let response;
    try {
      response = await fetch(address);
    } catch {
      throw new BundleError(`${name} is not kept on this device and cannot be fetched: is there a network?`);
    }
    if (response.status === 404 && name === "bundle.json") throw new NoBundleError(`there is no bundle at ${this.#base}`);
    if (!response.ok) throw new BundleError(`${name} cannot be fetched: the server says ${response.status}`);
    return response;
  }

  // In one piece of the size that is expected: a longer answer is as wrong as a shorter one.
  async #bytes(response, size) {
    const bytes = new Uint8Array(size);
    let end = 0;
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return bytes.subarray(0, end);
      if (end + value.length > size) return new Uint8Array(size + 1);
      bytes.set(value, end);
      end += value.length;
      this.#onBytes(value.length);
    }
  }
}
