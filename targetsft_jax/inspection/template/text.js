// The rows as text: one span per token, coloured by a level of the ramp.

const CHUNK = 500;
const LINE = 29.6;

/** A column of text. */
class TextView {
  /**
   * @param {PageModel} model
   * @param {HTMLElement} root
   */
  constructor(model, root) {
    this.model = model;
    this.root = root;
    root.innerHTML = model.header.rows.map((row) => this._rowHtml(row)).join("");
    /** @type {HTMLElement[]} */
    this.spans = new Array(model.tokens);
    const spans = /** @type {NodeListOf<HTMLElement>} */ (
      root.querySelectorAll("[data-n]")
    );
    for (const span of spans) this.spans[Number(span.dataset.n)] = span;
    /** @type {HTMLElement | null} */
    this.pinned = null;
  }

  /**
   * Colour all labels.
   * @param {Measure} scale
   */
  colour(scale) {
    this.root.dataset.ramp = scale.ramp;
    const { tokenOf } = this.model;
    for (let label = 0; label < tokenOf.length; label++) {
      const span = this.spans[tokenOf[label]];
      const number = level(scale, scale.values[label]);
      const name = number < 0 ? "t" : `t v${number}`;
      span.className = span === this.pinned ? `${name} pinned` : name;
    }
  }

  /**
   * Mark a token and bring it into view.
   * @param {number | null} token
   * @param {"center" | "nearest" | null} place
   */
  pin(token, place) {
    this.pinned?.classList.remove("pinned");
    this.pinned = token === null ? null : this.spans[token];
    if (this.pinned === null) return;
    this.pinned.classList.add("pinned");
    if (place === null) return;
    const span = this.pinned;
    span.scrollIntoView({ block: place });
    // Chunks that come into view take their real height, which moves the token.
    requestAnimationFrame(() => span.scrollIntoView({ block: place }));
  }

  /**
   * The label nearest above or below a token.
   * @param {number} token
   * @param {1 | -1} direction
   * @returns {number | null}
   */
  vertical(token, direction) {
    const { labelOf, tokenOf } = this.model;
    const here = this.spans[token].getClientRects()[0];
    const middle = here.left + here.width / 2;
    let best = null;
    let bestDistance = Infinity;
    let line = NaN;
    for (let m = labelOf[token] + direction; m >= 0 && m < tokenOf.length; m += direction) {
      const box = this.spans[tokenOf[m]].getClientRects()[0];
      const drop = direction * (box.top - here.top);
      if (drop < here.height / 2) continue;
      if (Number.isNaN(line)) line = box.top;
      if (Math.abs(box.top - line) > here.height / 2) break;
      const distance = Math.abs(box.left + box.width / 2 - middle);
      if (distance < bestDistance) [best, bestDistance] = [tokenOf[m], distance];
    }
    return best;
  }

  /** @param {Row} row */
  _rowHtml(row) {
    /** @type {string[]} */
    const chunks = [];
    let html = "";
    let text = "";
    let size = 0;
    const close = () => {
      // Height until the chunk is first drawn: lines of 70 characters.
      const lines = text.split("\n").map((line) => Math.ceil((line.length + 1) / 70));
      const height = Math.round(LINE * lines.reduce((sum, n) => sum + n, 0));
      const style = `contain-intrinsic-size:auto ${height}px`;
      chunks.push(`<div class="chunk" style="${style}">${html}</div>`);
      [html, text, size] = ["", "", 0];
    };
    for (let n = row.first; n < row.first + row.count; n++) {
      html += this._tokenHtml(n);
      text += this.model.text(n);
      size++;
      // A chunk is a block: it ends at a line's end where one is near.
      const ends = this.model.text(n).includes("\n") && size >= 0.8 * CHUNK;
      if (ends || size >= 2 * CHUNK) close();
    }
    if (html) close();
    const heading = `<h2 class="source">${escapeHtml(row.source)}</h2>`;
    return `<section class="row">${heading}${chunks.join("")}</section>`;
  }

  /** @param {number} token */
  _tokenHtml(token) {
    const { model } = this;
    const text = model.text(token);
    const isLabel = model.labelOf[token] >= 0;
    const isSpecial = model.special.has(model.arrays.token[token]);
    const body = isSpecial ? `<b>${escapeHtml(text)}</b>` : tokenHtml(text);
    return isLabel
      ? `<span class="t" data-n="${token}">${body}</span>`
      : `<span class="c">${body}</span>`;
  }
}

/**
 * HTML of a token's text. Marks of whitespace are drawn by CSS, so that copied text has
 * only the characters of the token.
 * @param {string} text
 */
function tokenHtml(text) {
  let html = "";
  const characters = [...text];
  characters.forEach((c, n) => {
    if (c === "\n") html += '<i class="nl"></i>\n';
    else if (c === "\t") html += '<i class="tab">\t</i>';
    else if (c === "\r") html += '<i class="cr"></i>';
    else if (c === " ") {
      // The one space before a word is plain.
      const next = characters[n + 1];
      const isPlain = n === 0 && next !== undefined && !/\s/.test(next);
      html += isPlain ? " " : '<i class="sp"> </i>';
    } else if (c.search(INVISIBLE) === 0) html += `<i class="cp">${codePoint(c)}</i>`;
    else html += escapeHtml(c);
  });
  return html;
}
