// Numbers of 16 bits (IEEE 754 binary16), which arrays hold as their bits: engines older than Float16Array have none.

export function halfToNumber(bits) {
  const sign = bits >> 15 ? -1 : 1,
    exponent = (bits >> 10) & 31,
    fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

// The nearest; of two equally near the even one.
export function numberToHalf(value) {
  const sign = Object.is(value, -0) || value < 0 ? 0x8000 : 0,
    size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00; // half way from the largest to the next power of two
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 2 ** -24)));
  const steps = size / 2 ** (exponent - 10); // of the last bit
  let whole = Math.floor(steps);
  if (steps - whole > 0.5 || (steps - whole === 0.5 && whole % 2)) whole += 1;
  return sign | (whole + ((exponent + 14) << 10)); // a carry into the exponent is right as it is
}
