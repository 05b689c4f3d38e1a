// What a file of an image says before it is decoded: whether it is one that is read here, and how it stores its pixels.

import { ImageError } from "./errors.mjs";

const START_OF_FRAME = new Set([0xc0, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf]); // JPEG's

// { type, indexed, alphaChannel }: its MIME type, whether it stores a palette or one bit a pixel, and whether transparency has
// a channel of its own. Throws where the answer could not be Python's: another format, more than 8 bits a channel, four colors.
export function inspect(bytes) {
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
    const depth = bytes[24],
      color = bytes[25]; // of IHDR
    if (depth === 16) throw new ImageError("it has more than 8 bits per channel: convert it to 8 bits first");
    return { type: "image/png", indexed: color === 3 || (color === 0 && depth === 1), alphaChannel: color >= 4 };
  }
  if (text(0, 3) === "\xff\xd8\xff") {
    if (colors(bytes) === 4)
      throw new ImageError("it is a JPEG in CMYK, which decoders turn into RGB each in its own way: convert it");
    return { type: "image/jpeg", indexed: false, alphaChannel: false };
  }
  if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") return { type: "image/webp", indexed: false, alphaChannel: true };
  if (/^GIF8[79]a/.test(text(0, 6))) return { type: "image/gif", indexed: !isGray(bytes), alphaChannel: false };
  throw new ImageError("it is no image of a format that is read: JPEG, PNG, WebP or GIF");
}

function colors(bytes) {
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff;) {
    const marker = bytes[at + 1];
    if (START_OF_FRAME.has(marker)) return bytes[at + 9];
    at += 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
  }
  return undefined;
}

// Pillow takes a GIF whose palette is a ramp, each color its own number, for gray values.
function isGray(bytes) {
  if (!(bytes[10] & 0x80)) return false;
  const count = 2 << (bytes[10] & 7);
  return (
    bytes.length >= 13 + 3 * count &&
    Array.from({ length: count }, (_, i) => i).every((i) => [0, 1, 2].every((c) => bytes[13 + 3 * i + c] === i))
  );
}
