// The panel of the pinned token: distributions on one scale, weights, gradient.

const SHOWN = 8;
const PUSHES = 5;
const SMALLEST = -5;

/** @type {Record<string, string>} */
const COLUMN_NAMES = {
  student: "p",
  teacher: "π_T",
  reference: "π_ref",
  before: "before",
  target: "Q",
};

/** @type {Record<string, string>} */
const COLUMN_TITLES = {
  student: "the student’s distribution",
  teacher: "the teacher’s distribution",
  reference: "the reference model’s distribution",
  before: "the earlier checkpoint’s distribution",
  target: "the target that the method teaches",
};

/** The panel. */
class Detail {
  /**
   * @param {PageModel} model
   * @param {HTMLElement} root
   * @param {PageState} state
   */
  constructor(model, root, state) {
    this.model = model;
    this.root = root;
    this.state = state;
    this.all = false;
    this.sentence = byId("sentence");
    this.body = byId("detail-body");
    this.body.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      if (target.closest("[data-more]")) {
        this.all = !this.all;
        this.show();
      }
    });
    byId("log").addEventListener("change", (event) => {
      const box = /** @type {HTMLInputElement} */ (event.target);
      this.state.set({ log: box.checked });
    });
    byId("release").addEventListener("click", () => this.state.set({ token: null }));
  }

  /** Show the pinned token under the chosen method. */
  show() {
    const { model, state } = this;
    const { token, method: name, stop, log } = state.now;
    this.root.classList.toggle("empty", token === null);
    /** @type {HTMLInputElement} */ (byId("log")).checked = log;
    if (token === null) {
      byId("token-text").textContent = "No token is pinned";
      byId("token-place").textContent = "";
      this.sentence.textContent =
        "Click a coloured token, or an entry of a list, to see what the method " +
        "teaches there.";
      this.body.replaceChildren(guide(model));
      return;
    }
    const label = model.labelOf[token];
    const method = model.methods.get(name);
    if (method === undefined) throw new Error(`no method ${name}`);
    const target = model.target(method, stop, label);
    byId("token-text").textContent = visible(model.text(token));
    const id = model.arrays.token_id[model.arrays.token[token]];
    byId("token-place").textContent =
      `${model.row(token).source} · label ${count(label + 1)} of ` +
      `${count(model.labels)} · token id ${id}`;
    this.sentence.replaceChildren(...this._sentence(name, label, target));
    this.body.replaceChildren(
      this._weights(target),
      this._distributions(method, label, target),
      this._pushes(label, target),
    );
  }

  /**
   * @param {string} name
   * @param {number} label
   * @param {Distributions} target
   */
  _sentence(name, label, { a, p, target }) {
    const { model } = this;
    const worth = target[0] - p[0];
    const isKept = Math.abs(worth) < 0.0005;
    const verb = worth > 0 ? "raises" : "lowers";
    const values = isKept
      ? ` leaves this label near p_y = ${figure(p[0])}, `
      : ` ${verb} this label from p_y = ${figure(p[0])} to Q_y = ${figure(target[0])}, `;
    const trust = `with trust γ = ${figure(a)}.`;
    const parts = [element("b", {}, name), formula(values + trust)];
    if (!model.hasTeacher) return parts;
    const own = Math.exp(model.logs("teacher", label)[0]);
    const other = model.favourite("teacher", label);
    const agrees = own >= other.probability;
    const text = agrees
      ? ` The teacher agrees: ${figure(own)}.`
      : ` The teacher prefers “${visible(model.header.texts[other.candidate])}”: ` +
        `${figure(other.probability)}.`;
    return [...parts, text];
  }

  /** @param {Distributions} target */
  _weights({ a, b, p, target }) {
    const worth = target[0] - p[0];
    const rows = [
      { name: "γ = a", title: "trust in the label", value: a, key: "gamma" },
      { name: "b", title: "pull to the alternative T", value: b, key: "b" },
      { name: "A = a + b", title: "strength", value: a + b, key: "strength" },
      { name: "Q_y − p_y", title: "worth of the label", value: worth, key: "worth" },
    ];
    return element(
      "dl",
      { class: "weights" },
      ...rows.map(({ name, title, value, key }) =>
        element(
          "div",
          {},
          element("dt", { title }, formula(name)),
          element(
            "dd",
            { "data-value": key, title: value },
            key === "worth" ? signedFigure(value) : figure(value),
          ),
        ),
      ),
    );
  }

  /**
   * @param {MethodEntry} method
   * @param {number} label
   * @param {Distributions} target
   */
  _distributions(method, label, target) {
    const { model } = this;
    const { log } = this.state.now;
    const columns = this._columns(method, label, target);
    const values = columns.flatMap(({ values }) => [...values]);
    const low = Math.min(0, ...values);
    const high = Math.max(...values);
    const scale = log ? logScale : linearScale(low, high);
    const names = [...model.candidates(label)].map((n) => model.header.texts[n]);
    const largest = names.map((_, k) =>
      Math.max(...columns.map(({ values }) => Math.abs(values[k]))),
    );
    const others = names.map((_, k) => k).slice(1);
    others.sort((i, j) => largest[j] - largest[i]);
    const order = [0, ...others].slice(0, this.all ? undefined : SHOWN);
    const rest = names.length;
    const hidden = names.length - Math.min(SHOWN, names.length);
    const unseen = model.header.vocabulary_size - names.length;
    /**
     * @param {number} k
     * @param {Node | string} name
     * @param {string} kind
     */
    const row = (k, name, kind) =>
      element(
        "tr",
        { class: kind },
        element("th", { scope: "row" }, name),
        ...columns.map(({ key, values }) => cell(key, values[k], scale)),
      );
    const head = element(
      "tr",
      {},
      element("td"),
      ...columns.map(({ key }) =>
        element(
          "th",
          { scope: "col", class: key, title: COLUMN_TITLES[key] },
          formula(COLUMN_NAMES[key]),
        ),
      ),
    );
    const table = element(
      "table",
      { class: "distributions", style: `--zero:${(100 * scale(0).from).toFixed(2)}%` },
      element("thead", {}, head),
      element(
        "tbody",
        {},
        ...order.map((k) => row(k, visible(names[k]), k === 0 ? "label" : "other")),
        row(rest, `${count(unseen)} others`, "rest"),
      ),
    );
    const more = element(
      "button",
      { type: "button", class: "more", "data-more": true },
      this.all ? "Show fewer" : hidden === 1 ? "Show 1 more candidate" : `Show ${hidden} more candidates`,
    );
    return element("div", {}, table, ...(hidden ? [more] : []));
  }

  /**
   * @param {MethodEntry} method
   * @param {number} label
   * @param {Distributions} target
   * @returns {{key: string, values: Float64Array}[]}
   */
  _columns(method, label, target) {
    const { model } = this;
    const columns = [{ key: "student", values: target.p }];
    const other = method.alternative && "other" in method.alternative
      ? method.alternative.other
      : null;
    for (const key of ["teacher", "reference", "before"]) {
      if (!model.header.roles.includes(key)) continue;
      if (key === "reference" && other !== key) continue;
      columns.push({ key, values: model.probabilities(key, label) });
    }
    return [...columns, { key: "target", values: target.target }];
  }

  /**
   * @param {number} label
   * @param {Distributions} target
   */
  _pushes(label, { gradient }) {
    const { model } = this;
    const names = [...model.candidates(label)].map((n) =>
      visible(model.header.texts[n]),
    );
    names.push("all others");
    const order = [...gradient.keys()].filter((k) => Math.abs(gradient[k]) > 1e-12);
    order.sort((i, j) => Math.abs(gradient[j]) - Math.abs(gradient[i]));
    const largest = Math.abs(gradient[order[0]] ?? 1);
    const items = order.slice(0, PUSHES).map((k) => {
      const g = gradient[k];
      const size = `${((50 * Math.abs(g)) / largest).toFixed(1)}%`;
      const direction = g < 0 ? "gains" : "loses";
      return element(
        "li",
        { class: direction },
        element("span", { class: "name" }, names[k]),
        element("span", { class: "track" }, element("u", { style: `width:${size}` })),
        element("span", { class: "number", title: g }, signedFigure(g)),
        element("span", { class: "direction" }, direction),
      );
    });
    if (!items.length) items.push(element("li", { class: "none" }, "no gradient: Q = p"));
    return element(
      "section",
      { class: "pushes" },
      element("h3", {}, "Largest entries of the gradient g = p − Q"),
      element("ul", {}, ...items),
    );
  }
}

/**
 * Notation and keys, in place of a token.
 * @param {PageModel} model
 */
function guide(model) {
  const terms = [
    ["y", "the label: the next token in the data"],
    ["p", "the student’s distribution before the step"],
    ...(model.hasTeacher ? [["π_T", "the teacher’s distribution"]] : []),
    ["Q", "the target: the distribution that the loss teaches"],
    ["γ", "trust: the weight of the label in the target"],
    ["g", "the gradient of the logits, p − Q"],
  ];
  const rows = terms.map(([term, text]) =>
    element("div", {}, element("dt", {}, formula(term)), element("dd", {}, text)),
  );
  /** @param {string} text */
  const key = (text) => element("kbd", {}, text);
  return element(
    "div",
    {},
    element("dl", { class: "guide" }, ...rows),
    element(
      "p",
      { class: "keys" },
      ...[key("←"), " ", key("→"), " neighbours  ", key("↑"), " ", key("↓")],
      ...[" lines  ", key("Esc"), " release"],
    ),
  );
}

/** @typedef {(value: number) => {from: number, to: number}} BarScale */

/**
 * Bars from 0, on a scale from the smallest to the largest value.
 * @param {number} low
 * @param {number} high
 * @returns {BarScale}
 */
function linearScale(low, high) {
  const range = high - low || 1;
  /** @param {number} x */
  const place = (x) => (x - low) / range;
  return (x) => ({ from: place(Math.min(0, x)), to: place(Math.max(0, x)) });
}

/**
 * Bars of log₁₀ |x| from 10⁻⁵ to 1.
 * @type {BarScale}
 */
function logScale(x) {
  const size = x === 0 ? 0 : 1 - Math.log10(Math.abs(x)) / SMALLEST;
  return { from: 0, to: Math.min(Math.max(size, 0), 1) };
}

/**
 * One cell: a number over a bar.
 * @param {string} key
 * @param {number} value
 * @param {BarScale} scale
 */
function cell(key, value, scale) {
  const { from, to } = scale(value);
  const kind = value < 0 ? `${key} negative` : key;
  const left = `${(100 * from).toFixed(2)}%`;
  const width = `${(100 * (to - from)).toFixed(2)}%`;
  return element(
    "td",
    { class: kind },
    element("span", { class: "number", title: value }, figure(value)),
    element(
      "span",
      { class: "track" },
      element("u", { style: `left:${left};width:${width}` }),
    ),
  );
}
