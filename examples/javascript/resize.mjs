// Resizing 8-bit pixels as Pillow 13 does, bit for bit: two passes of a filter that widens where an image shrinks, with weights
// of 22 fractional bits, rounded to 8 bits after each pass (Pillow's src/libImaging/Resample.c).
//
// A picture is { width, height, channels, data }: rows of `channels` interleaved bytes, 3 or 4 (RGB or RGBA).

const FRACTION = 22; // bits
const FILTERS = {
  // [support, weight of a distance]
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [
    1,
    (x) => {
      const y = Math.PI * Math.abs(x);
      return y === 0 ? 1 : y >= Math.PI ? 0 : (Math.sin(y) / y) * (0.54 + 0.46 * Math.cos(y));
    },
  ],
  bicubic: [
    2,
    (x) => {
      const a = -0.5,
        y = Math.abs(x);
      if (y < 1) return ((a + 2) * y - (a + 3)) * y * y + 1;
      return y < 2 ? (((y - 5) * y + 8) * y - 4) * a : 0;
    },
  ],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

export function resize(picture, width, height, filter) {
  if (picture.width === width && picture.height === height) return picture;
  if (filter === "nearest") return nearest(picture, width, height);
  const [support, weight] = FILTERS[filter];
  const passes = [
    [picture.width, width, horizontally],
    [picture.height, height, vertically],
  ];
  // Pillow before 13 always begins with the rows; what the other order rounds differently is a level or two of 255.
  const shorter = picture.height - height;
  if (shorter > 0 && shorter > 2 * (picture.width - width)) passes.reverse();
  let resized = picture.channels === 4 ? premultiplied(picture) : picture;
  for (const [from, to, pass] of passes) if (from !== to) resized = pass(resized, weights(from, to, support, weight));
  return picture.channels === 4 ? unmultiplied(resized) : resized;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

// For each output position the first input position, and whole-number weights from there on.
function weights(from, to, support, weight) {
  const scale = from / to,
    stretch = Math.max(scale, 1),
    reach = support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(from, Math.trunc(center + reach + 0.5));
    const values = Array.from({ length: end - first }, (_, j) => weight((j + first - center + 0.5) * (1 / stretch)));
    const sum = values.reduce((all, value) => all + value, 0);
    const whole = values.map((value) => {
      const share = (sum === 0 ? value : value / sum) * (1 << FRACTION);
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    return { first, whole: Int32Array.from(whole) };
  });
}

function horizontally({ width, height, channels, data }, columns) {
  const out = new Uint8ClampedArray(columns.length * height * channels);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (const { first, whole } of columns) {
      const start = (y * width + first) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (FRACTION - 1);
        for (let j = 0, p = start + c; j < whole.length; j++, p += channels) sum += data[p] * whole[j];
        out[at++] = sum >> FRACTION;
      }
    }
  }
  return { width: columns.length, height, channels, data: out };
}

function vertically({ width, channels, data }, rows) {
  const row = width * channels;
  const out = new Uint8ClampedArray(rows.length * row);
  const sums = new Int32Array(row);
  for (const [y, { first, whole }] of rows.entries()) {
    sums.fill(1 << (FRACTION - 1));
    for (let j = 0; j < whole.length; j++) {
      const weight = whole[j];
      for (let x = 0, p = (first + j) * row; x < row; x++, p++) sums[x] += data[p] * weight;
    }
    for (let x = 0; x < row; x++) out[y * row + x] = sums[x] >> FRACTION;
  }
  return { width, height: rows.length, channels, data: out };
}

// Positions are summed up, not multiplied, as Pillow's affine transform does: which pixel is nearest depends on the rounding.
function nearest({ width, height, channels, data }, outWidth, outHeight) {
  const positions = (from, to) => {
    const step = from / to;
    let position = step * 0.5;
    return Array.from({ length: to }, () => {
      const whole = Math.trunc(position);
      position += step;
      return whole;
    });
  };
  const out = new Uint8ClampedArray(outWidth * outHeight * channels);
  const columns = positions(width, outWidth);
  let at = 0;
  for (const y of positions(height, outHeight)) {
    for (const x of columns) {
      for (let c = 0, p = (y * width + x) * channels; c < channels; c++) out[at++] = data[p + c];
    }
  }
  return { width: outWidth, height: outHeight, channels, data: out };
}

// Pillow resizes colors multiplied by their alpha, so that what cannot be seen does not bleed into what can.
function premultiplied(picture) {
  const data = Uint8ClampedArray.from(picture.data);
  for (let p = 0; p < data.length; p += 4) {
    for (let c = 0; c < 3; c++) data[p + c] = divide255(data[p + c] * data[p + 3] + 128);
  }
  return { ...picture, data };
}

function unmultiplied(picture) {
  const { data } = picture;
  for (let p = 0; p < data.length; p += 4) {
    const alpha = data[p + 3];
    if (alpha === 0 || alpha === 255) continue;
    for (let c = 0; c < 3; c++) data[p + c] = Math.trunc((255 * data[p + c]) / alpha);
  }
  return picture;
}

export function divide255(value) {
  return ((value >> 8) + value) >> 8;
}
