// Numbers of bytes as people write them: 64MB is 10^6 of them, 64MiB 2^20.

import { BudgetError } from "./errors.mjs";

const UNITS = { "": 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30 };

export function byteSize(text) {
  const [, number, unit] =
    text
      .trim()
      .toUpperCase()
      .match(/^(\d+(?:\.\d+)?) ?([KMG]?I?B?)$/) ?? [];
  if (!Object.hasOwn(UNITS, unit ?? "?"))
    throw new BudgetError(`${JSON.stringify(text)} is no number of bytes: write 64MB or 64MiB`);
  return Math.floor(Number(number) * UNITS[unit]);
}
