// Files and frames of a camera to upright RGBA pixels, as the browser decodes them.

import { ImageError } from "../javascript/errors.mjs";
import { inspect } from "../javascript/image_file.mjs";

// Color profiles are left alone, as in Python; the orientation that a camera noted is followed.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };

// image: a Blob of a file, or an ImageBitmap, which is used up.
export async function decode(image) {
  if (image instanceof ImageBitmap) {
    const pixels = draw(image);
    image.close();
    return { ...pixels, indexed: false, alphaChannel: false };
  }
  const bytes = new Uint8Array(await image.arrayBuffer());
  const { type, indexed, alphaChannel } = inspect(bytes);
  try {
    const blob = new Blob([bytes], { type });
    const bitmap = await createImageBitmap(blob, AS_STORED);
    const drawn = draw(bitmap);
    const pixels = isOpaque(drawn) ? drawn : (texture(bitmap) ?? drawn);
    bitmap.close();
    return { ...pixels, indexed, alphaChannel };
  } catch (error) {
    throw new ImageError(`it is broken: ${error.message}`);
  }
}

function draw(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}

function isOpaque({ data }) {
  for (let p = 3; p < data.length; p += 4) if (data[p] !== 255) return false;
  return true;
}

// A 2D canvas keeps colors multiplied by their alpha, and so loses those that can hardly be seen; a texture keeps them as they
// are.
function texture(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow few at a time
  return { width, height, data: new Uint8ClampedArray(data.buffer) };
}
