// Elements, numbers and tokens as text.

/**
 * Create an element with attributes and children.
 * @param {string} tag
 * @param {Record<string, string | number | boolean>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

/**
 * Create an SVG element.
 * @param {string} tag
 * @param {Record<string, string | number | boolean>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
function drawing(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

/**
 * Set attributes; false leaves one out.
 * @param {Element} node
 * @param {Record<string, string | number | boolean>} attributes
 */
function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

/**
 * The element of an id.
 * @param {string} id
 * @returns {HTMLElement}
 */
function byId(id) {
  const node = document.getElementById(id);
  if (node === null) throw new Error(`the page has no element #${id}`);
  return node;
}

/**
 * A formula as nodes: p_y has a subscript, p^α a superscript.
 * @param {string} text
 * @returns {DocumentFragment}
 */
function formula(text) {
  const nodes = document.createDocumentFragment();
  const pattern = /_(\p{L}+)|\^(\([^)]*\)|[\p{L}\p{N}.²]+)/gu;
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    nodes.append(text.slice(end, found.index));
    end = found.index + found[0].length;
    const raised = found[2]?.replace(/^\(|\)$/g, "");
    nodes.append(found[1] ? element("sub", {}, found[1]) : element("sup", {}, raised));
  }
  nodes.append(text.slice(end));
  return nodes;
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/**
 * A number with three significant digits; powers of ten below a thousandth.
 * @param {number} value
 * @returns {string}
 */
function figure(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  if (size === 0 || size < 1e-30) return "0";
  const sign = value < 0 ? "−" : "";
  if (size >= 0.0005 && size < 100) return sign + size.toFixed(size < 10 ? 3 : 1);
  if (size >= 100 && size < 1e6) return sign + size.toFixed(0);
  const [digits, power] = size.toExponential(1).split("e");
  const raised = [...power.replace("+", "").replace("-", "⁻")]
    .map((c) => (c === "⁻" ? c : SUPERSCRIPTS[Number(c)]))
    .join("");
  return `${sign}${digits}·10${raised}`;
}

/**
 * A number with its sign.
 * @param {number} value
 * @returns {string}
 */
function signedFigure(value) {
  return value > 0 && figure(value) !== "0" ? `+${figure(value)}` : figure(value);
}

/**
 * A count with thousands separated.
 * @param {number} value
 * @returns {string}
 */
function count(value) {
  return value.toLocaleString("en-GB");
}

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]/g;

/**
 * Text of a token on one line, with its whitespace and control characters visible.
 * @param {string} text
 * @returns {string}
 */
function visible(text) {
  return text
    .replace(/ /g, "␣")
    .replace(/\r/g, "␍")
    .replace(/\n/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(INVISIBLE, codePoint);
}

/**
 * An invisible character as U+XXXX.
 * @param {string} character
 * @returns {string}
 */
function codePoint(character) {
  const code = character.codePointAt(0) ?? 0;
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/**
 * Escape text for HTML.
 * @param {string} text
 * @returns {string}
 */
function escapeHtml(text) {
  return text
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}
