// Files of images to upright RGBA pixels, with sharp. It decodes alone: resizing is ours, which is Pillow's.

import sharp from "sharp";
import { ImageError } from "../javascript/errors.mjs";
import { inspect } from "../javascript/image_file.mjs";

export async function decode(bytes) {
  const { indexed, alphaChannel } = inspect(bytes);
  try {
    // Color profiles are left alone, as in Python; the first picture of a file with several.
    const image = sharp(bytes, { ignoreIcc: true, failOn: "error", pages: 1 }).autoOrient().toColourspace("srgb").ensureAlpha();
    const { data, info } = await image.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8ClampedArray(data), indexed, alphaChannel };
  } catch (error) {
    throw new ImageError(`it is broken: ${error.message}`);
  }
}
