// Measures: the quantities that colour the labels, each the answer to one question.

const LEVELS = 33;

/**
 * @typedef {object} MeasureEntry
 * @property {string} key
 * @property {string} name
 * @property {string} question
 * @property {string} ramp
 * @property {"unit" | "signed" | "free"} scale
 * @property {(model: PageModel) => boolean} available
 * @property {(model: PageModel, method: MethodEntry, stop: number) => Float32Array} values
 */

/** @type {MeasureEntry[]} */
const MEASURES = [
  {
    key: "trust",
    name: "γ, trust in the label",
    question: "Which labels would this method trust?",
    ramp: "trust",
    scale: "unit",
    available: () => true,
    values: (model, method) => float32(model.arrays[`a_${method.name}`]),
  },
  {
    key: "strength",
    name: "A = a + b, strength",
    question: "How hard does this method pull at each token?",
    ramp: "amount",
    scale: "free",
    available: () => true,
    values: (model, method) => {
      const a = model.arrays[`a_${method.name}`];
      const b = method.alternative ? model.arrays[`b_${method.name}`] : null;
      return Float32Array.from(a, (x, m) => x + (b ? b[m] : 0));
    },
  },
  {
    key: "moved",
    name: "mass moved",
    question: "How far is the target from the student? ½ Σ|g|",
    ramp: "amount",
    scale: "unit",
    available: () => true,
    values: (model, method, stop) => model.moved(method, stop),
  },
  {
    key: "probability",
    name: "p_y, under the student",
    question: "How probable is the label under the student?",
    ramp: "probability",
    scale: "unit",
    available: () => true,
    values: (model) => model.labelProbabilities("student"),
  },
  {
    key: "entropy",
    name: "H, the student’s entropy",
    question: "How undecided is the student? In nats.",
    ramp: "amount",
    scale: "free",
    available: () => true,
    values: (model) => float32(model.arrays.entropy),
  },
  {
    key: "on_support",
    name: "on-support disagreement",
    question: "How far is the teacher away among the student’s own top tokens? In nats.",
    ramp: "amount",
    scale: "free",
    available: (model) => model.hasTeacher,
    values: (model) => disagreements(model).on,
  },
  {
    key: "off_support",
    name: "off-support disagreement",
    question: "How far is the teacher away in tokens that the student would not sample? In nats.",
    ramp: "amount",
    scale: "free",
    available: (model) => model.hasTeacher,
    values: (model) => disagreements(model).off,
  },
  {
    key: "change",
    name: "change of p_y since before",
    question: "What did training change?",
    ramp: "trust",
    scale: "signed",
    available: (model) => model.hasBefore,
    values: (model) => {
      const before = model.labelProbabilities("before");
      return model.labelProbabilities("student").map((p, m) => p - before[m]);
    },
  },
];

/**
 * Evaluate a measure at all labels.
 * @param {string} key
 * @param {PageModel} model
 * @param {MethodEntry} method
 * @param {number} stop
 * @returns {Measure}
 */
function measure(key, model, method, stop) {
  const entry = MEASURES.find((m) => m.key === key);
  if (entry === undefined) throw new Error(`no measure ${key}`);
  const values = entry.values(model, method, stop);
  let [low, high] = entry.scale === "signed" ? [-1, 1] : [0, 1];
  if (entry.scale === "free") {
    // The largest percentile would follow single tokens; 98 % of them set the scale.
    const sorted = values.filter(Number.isFinite).sort();
    high = Math.max(sorted[Math.floor(0.98 * (sorted.length - 1))] ?? 1, 1e-3);
    if (key === "strength") high = Math.max(high, 1);
    low = Math.min(0, sorted[0] ?? 0);
  }
  const { name, question, ramp } = entry;
  return { key, name, question, ramp, values, low, high };
}

/**
 * True for a measure that the earlier checkpoint has too; it has no targets.
 * @param {string} key
 */
function isComparable(key) {
  return key === "probability" || key === "entropy";
}

/**
 * The measure that a view shows.
 * @param {State} state
 */
function shownColour({ view, colour }) {
  return view !== "compare" || isComparable(colour) ? colour : "probability";
}

/**
 * Level of a value on a measure's ramp; −1 for NaN.
 * @param {Measure} scale
 * @param {number} value
 */
function level(scale, value) {
  if (Number.isNaN(value)) return -1;
  const share = (value - scale.low) / (scale.high - scale.low);
  return Math.round(Math.min(Math.max(share, 0), 1) * (LEVELS - 1));
}

/** @type {WeakMap<PageModel, {on: Float32Array, off: Float32Array}>} */
const _DISAGREEMENTS = new WeakMap();

/** @param {PageModel} model */
function disagreements(model) {
  let result = _DISAGREEMENTS.get(model);
  if (result === undefined) {
    result = { on: new Float32Array(model.labels), off: new Float32Array(model.labels) };
    for (let m = 0; m < model.labels; m++) {
      const { on, off } = model.disagreement(m);
      result.on[m] = on;
      result.off[m] = off;
    }
    _DISAGREEMENTS.set(model, result);
  }
  return result;
}

/** @param {ArrayLike<number>} values */
function float32(values) {
  return values instanceof Float32Array ? values : Float32Array.from(values);
}
