// Unpack the container that the page embeds: base64, gzip, header, arrays.

/**
 * Decompress base64 of gzip.
 * @param {string} text
 * @returns {Promise<ArrayBuffer>}
 */
async function decompress(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let n = 0; n < binary.length; n++) bytes[n] = binary.charCodeAt(n);
  const stream = new Blob([bytes])
    .stream()
    .pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/**
 * Numbers of an array stored in planes: the first byte of all, the second of all, …
 * @param {Uint8Array} planes
 * @param {number} width bytes per number
 * @returns {ArrayBuffer}
 */
function joinPlanes(planes, width) {
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0, at = 0; plane < width; plane++) {
    for (let n = plane; n < bytes.length; n += width) bytes[n] = planes[at++];
  }
  return bytes.buffer;
}

/**
 * Read a container (see container.py).
 * @param {ArrayBuffer} buffer
 * @returns {{header: Header, arrays: Arrays}}
 */
function readContainer(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(buffer, 4, length));
  const header = JSON.parse(text);
  const block = Math.ceil((4 + length) / 8) * 8;
  const kinds = { f32: Float32Array, i32: Int32Array, u8: Uint8Array };
  /** @type {Arrays} */
  const arrays = {};
  /** @type {[string, ArrayEntry][]} */
  const entries = Object.entries(header.arrays);
  for (const [name, entry] of entries) {
    const kind = kinds[entry.dtype];
    const width = kind.BYTES_PER_ELEMENT;
    const size = entry.shape.reduce((product, n) => product * n, width);
    const planes = new Uint8Array(buffer, block + entry.offset, size);
    arrays[name] = new kind(joinPlanes(planes, width));
  }
  return { header, arrays };
}
