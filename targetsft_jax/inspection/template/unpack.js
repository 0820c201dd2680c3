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
 * Read a container; the arrays are views of the buffer.
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
    const size = entry.shape.reduce((product, n) => product * n, 1);
    arrays[name] = new kinds[entry.dtype](buffer, block + entry.offset, size);
  }
  return { header, arrays };
}
