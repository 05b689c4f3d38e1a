// Experts in memory under a budget of bytes: read when a route first asks for them, the one unused longest given up first.

import { BudgetError } from "./errors.mjs";

export class ExpertStore {
  #experts = new Map(); // by task, the one used last at the end
  #sizes;
  #load;

  // sizes: bytes of each task's expert. load(task): reads one. budget: bytes; null keeps all. together: how many a run uses.
  constructor(sizes, load, budget, together) {
    this.#sizes = sizes;
    this.#load = load;
    const least = [...sizes.values()]
      .sort((a, b) => b - a)
      .slice(0, together)
      .reduce((sum, size) => sum + size, 0);
    if (budget != null && !(budget >= least)) {
      throw new BudgetError(
        `an expert budget of ${budget} bytes is too small: the largest experts of one image need ${least} bytes`,
      );
    }
    this.stats = { budget, residentBytes: 0, hits: 0, misses: 0, evictions: 0, bytesLoaded: 0 };
  }

  get resident() {
    return [...this.#experts.keys()];
  }

  async use(tasks) {
    const found = [];
    for (const task of tasks) {
      let expert = this.#experts.get(task);
      this.stats[expert ? "hits" : "misses"] += 1;
      if (!expert) {
        const size = this.#sizes.get(task);
        this.#makeRoom(size, tasks);
        expert = await this.#load(task);
        this.stats.residentBytes += size;
        this.stats.bytesLoaded += size;
      }
      this.#experts.delete(task);
      this.#experts.set(task, expert);
      found.push(expert);
    }
    return found;
  }

  #makeRoom(needed, inUse) {
    for (const task of this.resident) {
      if (this.stats.budget == null || this.stats.residentBytes + needed <= this.stats.budget) return;
      if (inUse.includes(task)) continue;
      this.#experts.delete(task);
      this.stats.residentBytes -= this.#sizes.get(task);
      this.stats.evictions += 1;
    }
  }
}
