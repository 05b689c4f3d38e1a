// A picture to `pixel_values`, bit for bit as the runtime for Python does it (docs/bundle-format.md, "Preprocessing").

import { ImageError } from "./errors.mjs";
import { divide255, resize } from "./resize.mjs";

const MOST_ELONGATED = 200; // times as long as wide

// Float32Array [3, S, S] of decoded RGBA pixels, S = spec.image_size. `indexed`, `alphaChannel`: see image_file.mjs. Where a
// picture becomes RGB last, Pillow takes the nearest pixel of a palette, and sees transparency in a channel of its own alone.
export function preprocess({ width, height, data, indexed = false, alphaChannel = true }, spec) {
  if (Math.max(width, height) > MOST_ELONGATED * Math.min(width, height)) {
    throw new ImageError(`it is too elongated: ${width} x ${height} pixels, at most ${MOST_ELONGATED} : 1 is read`);
  }
  const [newWidth, newHeight] = resizedSize(width, height, spec);
  if (Math.min(newWidth, newHeight) < 1) {
    throw new ImageError(`${width} x ${height} pixels are too elongated to resize to a side of ${side(spec)}`);
  }
  let picture = { width, height, channels: 4, data };
  const opaque = isOpaque(data); // then alpha is 255 wherever it is resized to
  if (spec.rgb === "before_resize_on_white" && !opaque) picture = onWhite(picture);
  if (spec.rgb !== "after_crop" || opaque || !alphaChannel) picture = withoutAlpha(picture);
  const indices = indexed && spec.rgb === "after_crop";
  picture = resize(picture, newWidth, newHeight, indices ? "nearest" : spec.interpolation);
  if (indices && Math.min(newWidth, newHeight) < spec.image_size) {
    throw new ImageError(
      "it stores a palette, of which this bundle pads with one entry, and decoders do not tell which: convert it to RGB",
    );
  }
  return normalized(crop(pad(picture, spec), spec), spec);
}

function side(spec) {
  return spec.resized_side ?? spec.image_size;
}

function resizedSize(width, height, spec) {
  const wanted = side(spec);
  if (spec.resize === "squash") return [wanted, wanted];
  if (spec.resize === "longest_edge") {
    const ratio = Math.max(width / wanted, height / wanted);
    return [halfToEven(width / ratio), halfToEven(height / ratio)];
  }
  return width <= height ? [wanted, Math.trunc((wanted * height) / width)] : [Math.trunc((wanted * width) / height), wanted];
}

function isOpaque(data) {
  for (let p = 3; p < data.length; p += 4) if (data[p] !== 255) return false;
  return true;
}

function withoutAlpha({ width, height, data }) {
  const out = new Uint8ClampedArray(3 * width * height);
  for (let p = 0, at = 0; p < data.length; p += 4) {
    out[at++] = data[p];
    out[at++] = data[p + 1];
    out[at++] = data[p + 2];
  }
  return { width, height, channels: 3, data: out };
}

// As Pillow's alpha_composite on opaque white: blended with 7 more bits than are kept.
function onWhite(picture) {
  const data = Uint8ClampedArray.from(picture.data);
  for (let p = 0; p < data.length; p += 4) {
    const share = data[p + 3] * 128; // of 255 x 128
    for (let c = 0; c < 3; c++) {
      data[p + c] = data[p + 3] === 0 ? 255 : divide255(data[p + c] * share + 255 * (255 * 128 - share) + (128 << 7)) >> 7;
    }
  }
  return { ...picture, data };
}

function pad(picture, { image_size: wanted, fill }) {
  const { width, height, channels, data } = picture;
  const across = Math.max(0, wanted - width),
    down = Math.max(0, wanted - height);
  if (!across && !down) return picture;
  const padded = new Uint8ClampedArray((width + across) * (height + down) * channels).fill(fill);
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width * channels, (y + 1) * width * channels);
    padded.set(row, ((y + (down >> 1)) * (width + across) + (across >> 1)) * channels);
  }
  return { width: width + across, height: height + down, channels, data: padded };
}

function crop({ width, height, channels, data }, { image_size: wanted, crop_offset: rounding }) {
  const offset = (length) => (rounding === "down" ? Math.floor((length - wanted) / 2) : halfToEven((length - wanted) / 2));
  const left = offset(width),
    top = offset(height);
  const out = new Uint8ClampedArray(wanted * wanted * channels);
  for (let y = 0; y < wanted; y++) {
    const start = ((top + y) * width + left) * channels;
    out.set(data.subarray(start, start + wanted * channels), y * wanted * channels);
  }
  return { width: wanted, height: wanted, channels, data: out };
}

function normalized({ width, height, channels, data }, { mean, std }) {
  const plane = width * height,
    values = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const [center, spread] = [Math.fround(mean[c]), Math.fround(std[c])];
    const table = Float32Array.from({ length: 256 }, (_, v) => Math.fround(Math.fround(v / 255) - center) / spread);
    for (let i = 0, p = c; i < plane; i++, p += channels) values[c * plane + i] = table[data[p]];
  }
  return values;
}

function halfToEven(value) {
  const rounded = Math.floor(value);
  const beyond = value - rounded;
  return beyond > 0.5 || (beyond === 0.5 && rounded % 2) ? rounded + 1 : rounded;
}
